//! Memory that begins at a cache line.

use crate::base::{DeviceFault, Error, Result};

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Bytes from a cache line on, zeros at first.
#[derive(Default)]
pub struct Lines {
    lines: Vec<Line>,
    bytes: usize,
}

impl Lines {
    /// # Errors
    /// Memory that is not there.
    pub fn new(bytes: usize) -> Result<Lines> {
        let n = bytes.div_ceil(64);
        let mut lines: Vec<Line> = vec![];
        lines.try_reserve_exact(n).map_err(|_| {
            let what = format!("has no {bytes} bytes left: choose a smaller model or context");
            Error::device(DeviceFault::OutOfMemory, "the CPU", what)
        })?;
        // Whole pages of zeros come from the system untouched.
        drop(lines);
        Ok(Lines { lines: vec![Line([0; 64]); n], bytes })
    }
    pub fn len(&self) -> usize {
        self.bytes
    }
    pub fn as_ptr(&self) -> *const u8 {
        self.lines.as_ptr().cast()
    }
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.lines.as_mut_ptr().cast()
    }
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: a line is 64 bytes without padding, any bytes are valid, and `bytes` is not more than there are.
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.bytes) }
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let n = self.bytes;
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.as_mut_ptr(), n) }
    }
}
