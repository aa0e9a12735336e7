//! Weights as kernels read them: rows interleaved by sixteen, so that a vector holds the same place of sixteen rows.
//!
//! A group of sixteen rows is one run of memory, block after block along k. A block of 32 elements has its sixteen f16
//! scales (and minima) first, then bytes: four elements of row 0, four of row 1, and so on, next the following four of each.
//! Files come in any pieces: [`Packed::put`] takes blocks wherever they belong.

use super::isa::{Isa, LANES};
use super::lines::Lines;
use crate::base::{DType, Error, Result};
use crate::format;
use half::f16;

/// Elements of a block, in every form that has blocks.
pub const BLOCK: usize = 32;

/// How the elements of a group lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    F32,
    F16,
    Q4_0,
    Q4_1,
    Q8_0,
}

impl Form {
    /// The form for weights of a type; `None` for what no product reads. Types without a form of their own are decoded.
    pub fn of(dtype: DType) -> Option<Form> {
        match dtype {
            DType::F16 => Some(Form::F16),
            DType::Q4_0 => Some(Form::Q4_0),
            DType::Q4_1 => Some(Form::Q4_1),
            DType::Q8_0 => Some(Form::Q8_0),
            other => other.is_float().then_some(Form::F32),
        }
    }
    /// The type whose blocks it is made of.
    fn dtype(self) -> DType {
        match self {
            Form::F32 => DType::F32,
            Form::F16 => DType::F16,
            Form::Q4_0 => DType::Q4_0,
            Form::Q4_1 => DType::Q4_1,
            Form::Q8_0 => DType::Q8_0,
        }
    }
    pub fn is_quantised(self) -> bool {
        !matches!(self, Form::F32 | Form::F16)
    }
    /// Bytes of sixteen rows of one block; of one element where there are no blocks.
    pub const fn bytes(self) -> usize {
        match self {
            Form::F32 => 4 * LANES,
            Form::F16 => 2 * LANES,
            Form::Q4_0 => 32 + 256,
            Form::Q4_1 => 64 + 256,
            Form::Q8_0 => 32 + 512,
        }
    }
}

/// A block of a quantised form: every element is `d · q + m`, q a byte without sign.
pub struct Block<S: Isa> {
    pub q: [S::B; 8],
    pub d: S::F,
    pub m: S::F,
}

/// How a kernel reads a quantised form.
pub trait Blocks: Copy {
    const BYTES: usize;
    /// Whether bytes go beyond 127.
    const WIDE: bool;
    /// # Safety
    /// As of [`Isa`]; `p` is the start of a block of this form.
    unsafe fn open<S: Isa>(p: *const u8) -> Block<S>;
}

#[derive(Clone, Copy)]
pub struct Q4_0;
#[derive(Clone, Copy)]
pub struct Q4_1;
#[derive(Clone, Copy)]
pub struct Q8_0;

#[inline(always)]
unsafe fn nibbles<S: Isa>(p: *const u8) -> [S::B; 8] {
    unsafe {
        let b = [S::load_b(p), S::load_b(p.add(64)), S::load_b(p.add(128)), S::load_b(p.add(192))];
        [
            S::low(b[0]),
            S::low(b[1]),
            S::low(b[2]),
            S::low(b[3]),
            S::high(b[0]),
            S::high(b[1]),
            S::high(b[2]),
            S::high(b[3]),
        ]
    }
}

impl Blocks for Q4_0 {
    const BYTES: usize = Form::Q4_0.bytes();
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn open<S: Isa>(p: *const u8) -> Block<S> {
        unsafe {
            let d = S::load_f16(p.cast());
            Block { q: nibbles::<S>(p.add(32)), d, m: S::mul(d, S::splat(-8.0)) }
        }
    }
}

impl Blocks for Q4_1 {
    const BYTES: usize = Form::Q4_1.bytes();
    const WIDE: bool = false;
    #[inline(always)]
    unsafe fn open<S: Isa>(p: *const u8) -> Block<S> {
        unsafe {
            let (d, m) = (S::load_f16(p.cast()), S::load_f16(p.add(32).cast()));
            Block { q: nibbles::<S>(p.add(64)), d, m }
        }
    }
}

impl Blocks for Q8_0 {
    const BYTES: usize = Form::Q8_0.bytes();
    const WIDE: bool = true;
    #[inline(always)]
    unsafe fn open<S: Isa>(p: *const u8) -> Block<S> {
        unsafe {
            let d = S::load_f16(p.cast());
            let at = |i: usize| S::load_b(p.add(32 + i * 64));
            let q = [at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)];
            Block { q, d, m: S::mul(d, S::splat(-128.0)) }
        }
    }
}

/// A matrix `[n, k]` in groups of sixteen rows; rows beyond the last are zeros.
pub struct Packed {
    pub form: Form,
    pub n: usize,
    pub k: usize,
    data: Lines,
}

impl Packed {
    /// # Errors
    /// Memory that is not there; rows of parts of blocks.
    pub fn new(form: Form, n: usize, k: usize) -> Result<Packed> {
        if form.is_quantised() && !k.is_multiple_of(BLOCK) {
            return Err(Error::op("weight", "", format!("rows of {k} are not whole blocks of {BLOCK}")));
        }
        let mut packed = Packed { form, n, k, data: Lines::default() };
        packed.data = Lines::new(packed.groups() * packed.group_bytes())?;
        Ok(packed)
    }
    pub fn groups(&self) -> usize {
        self.n.div_ceil(LANES)
    }
    /// Blocks, or elements, of a row.
    pub fn steps(&self) -> usize {
        if self.form.is_quantised() { self.k / BLOCK } else { self.k }
    }
    pub fn group_bytes(&self) -> usize {
        self.steps() * self.form.bytes()
    }
    pub fn len(&self) -> usize {
        self.data.len()
    }
    /// Where a group begins.
    pub fn group(&self, g: usize) -> *const u8 {
        debug_assert!(g < self.groups());
        self.data.bytes()[g * self.group_bytes()..].as_ptr()
    }

    /// Takes blocks of a type as a file has them, from number `first` of the matrix on.
    ///
    /// # Errors
    /// Blocks beyond the end.
    pub fn put(&mut self, dtype: DType, first: usize, bytes: &[u8]) -> Result<()> {
        if dtype != self.form.dtype() {
            let values = format::decode(dtype, bytes);
            return self.put(DType::F32, first * dtype.block(), bytemuck::cast_slice(&values));
        }
        let size = dtype.block_bytes();
        let (steps, span, group) = (self.steps(), self.form.bytes(), self.group_bytes());
        if (first + bytes.len() / size) > self.n * steps {
            return Err(Error::op("weight", "", format!("{} bytes from {first} on reach past its end", bytes.len())));
        }
        let form = self.form;
        let data = self.data.bytes_mut();
        let (mut row, mut step) = (first.checked_div(steps).unwrap_or(0), first % steps.max(1));
        for block in bytes.chunks_exact(size) {
            let at = row / LANES * group + step * span;
            put_block(form, block, row % LANES, &mut data[at..at + span]);
            step += 1;
            if step == steps {
                (row, step) = (row + 1, 0);
            }
        }
        Ok(())
    }

    /// The elements of one row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (lane, span) = (row % LANES, self.form.bytes());
        let group = &self.data.bytes()[row / LANES * self.group_bytes()..][..self.group_bytes()];
        let half = |b: &[u8], at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
        let d = |b: &[u8]| half(b, 2 * lane);
        match self.form {
            Form::F32 => {
                for (y, b) in out.iter_mut().zip(group.chunks_exact(span)) {
                    *y = f32::from_le_bytes([b[4 * lane], b[4 * lane + 1], b[4 * lane + 2], b[4 * lane + 3]]);
                }
            }
            Form::F16 => out.iter_mut().zip(group.chunks_exact(span)).for_each(|(y, b)| *y = half(b, 2 * lane)),
            Form::Q4_0 | Form::Q4_1 => {
                let head = span - 256;
                for (y, b) in out.chunks_exact_mut(BLOCK).zip(group.chunks_exact(span)) {
                    let d = d(b);
                    let m = if head == 64 { half(b, 32 + 2 * lane) } else { -8.0 * d };
                    for i in 0..16 {
                        let q = b[head + i / 4 * 64 + lane * 4 + i % 4];
                        y[i] = (q & 15) as f32 * d + m;
                        y[i + 16] = (q >> 4) as f32 * d + m;
                    }
                }
            }
            Form::Q8_0 => {
                for (y, b) in out.chunks_exact_mut(BLOCK).zip(group.chunks_exact(span)) {
                    let d = d(b);
                    for (i, y) in y.iter_mut().enumerate() {
                        *y = d * (b[32 + i / 4 * 64 + lane * 4 + i % 4] ^ 0x80) as i8 as f32;
                    }
                }
            }
        }
    }
}

/// One block of one row to its places in a group's block.
fn put_block(form: Form, block: &[u8], lane: usize, to: &mut [u8]) {
    let words = |from: &[u8], to: &mut [u8], flip: u8| {
        for (word, to) in from.chunks_exact(4).zip(to.chunks_exact_mut(64)) {
            for i in 0..4 {
                to[lane * 4 + i] = word[i] ^ flip;
            }
        }
    };
    match form {
        Form::F32 => to[lane * 4..lane * 4 + 4].copy_from_slice(block),
        Form::F16 => to[lane * 2..lane * 2 + 2].copy_from_slice(block),
        Form::Q4_0 => {
            to[lane * 2..lane * 2 + 2].copy_from_slice(&block[..2]);
            words(&block[2..], &mut to[32..], 0);
        }
        Form::Q4_1 => {
            to[lane * 2..lane * 2 + 2].copy_from_slice(&block[..2]);
            to[32 + lane * 2..34 + lane * 2].copy_from_slice(&block[2..4]);
            words(&block[4..], &mut to[64..], 0);
        }
        // Bytes without sign: q + 128.
        Form::Q8_0 => {
            to[lane * 2..lane * 2 + 2].copy_from_slice(&block[..2]);
            words(&block[2..], &mut to[32..], 0x80);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were_put_in_any_pieces() {
        for (dtype, form) in [
            (DType::F32, Form::F32),
            (DType::F16, Form::F16),
            (DType::Q4_0, Form::Q4_0),
            (DType::Q4_1, Form::Q4_1),
            (DType::Q8_0, Form::Q8_0),
        ] {
            let (n, k) = (19, 64);
            let values: Vec<f32> = (0..n * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 20.0).collect();
            let bytes = format::encode(dtype, &values);
            let want = format::decode(dtype, &bytes);
            let mut packed = Packed::new(form, n, k).unwrap();
            let size = dtype.block_bytes();
            let blocks = bytes.len() / size;
            for from in (0..blocks).step_by(7).rev() {
                let to = (from + 7).min(blocks);
                packed.put(dtype, from, &bytes[from * size..to * size]).unwrap();
            }
            assert!(packed.put(dtype, blocks, &bytes[..size]).is_err());
            let mut row = vec![0.0; k];
            for r in 0..n {
                packed.row(r, &mut row);
                assert_eq!(row, want[r * k..(r + 1) * k], "{dtype} row {r}");
            }
        }
    }
}
