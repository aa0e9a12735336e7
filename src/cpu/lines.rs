//! Memory that begins at a cache line.

use crate::base::{DeviceFault, Error, Result};

const LINE: usize = 64;

/// Bytes from a cache line on, zeros at first: pages that nothing was written to are not in memory yet.
#[derive(Default)]
pub struct Lines {
    /// The memory, with room for the bytes before the first line.
    all: Vec<u8>,
    first: usize,
    bytes: usize,
}

impl Lines {
    /// # Errors
    /// Memory that is not there.
    pub fn new(bytes: usize) -> Result<Lines> {
        let short = || {
            let what = format!("has no {bytes} bytes left: choose a smaller model or context");
            Error::device(DeviceFault::OutOfMemory, "the CPU", what)
        };
        let n = bytes.checked_next_multiple_of(LINE).and_then(|n| n.checked_add(LINE)).ok_or_else(short)?;
        let mut room: Vec<u8> = vec![];
        room.try_reserve_exact(n).map_err(|_| short())?;
        drop(room);
        // Zeros come from the system as untouched pages; an allocation of stricter alignment would be written to.
        let all = vec![0u8; n];
        let first = all.as_ptr().align_offset(LINE).min(LINE);
        Ok(Lines { all, first, bytes })
    }
    pub fn len(&self) -> usize {
        self.bytes
    }
    pub fn as_ptr(&self) -> *const u8 {
        self.all.as_ptr().wrapping_add(self.first)
    }
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.all.as_mut_ptr().wrapping_add(self.first)
    }
    pub fn bytes(&self) -> &[u8] {
        &self.all[self.first..self.first + self.bytes]
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.all[self.first..self.first + self.bytes]
    }
}
