//! Weights as kernels read them: rows interleaved by sixteen, so that a vector holds the same place of sixteen rows.
//!
//! A group of sixteen rows is one run of memory, step after step along k: an element of each row, or what a block of the file
//! becomes ([`super::blocks`]). A weight takes as many bits as in the file, but for scales that a file packs in less than
//! bytes. Files come in any pieces: [`Packed::put`] takes blocks wherever they belong.

use super::blocks::{BLOCK, Blocks, Scheme, Visit};
use super::isa::{LANES, Scalar};
use super::lines::Lines;
use crate::base::{DType, Error, Result};
use crate::format::{self, Numbers};
use half::{bf16, f16};

/// How the elements of a group lie.
#[derive(Debug, Clone, Copy)]
pub enum Form {
    F32,
    F16,
    BF16,
    Blocks(Scheme),
}

impl Form {
    /// The form for weights of a type; `None` for what no product reads. Floats without a form of their own are decoded.
    pub fn of(dtype: DType) -> Option<Form> {
        let float = dtype.format().float()?;
        Some(match (&float.levels, dtype) {
            (Some(levels), _) => Scheme::of(levels).map_or(Form::F32, Form::Blocks),
            (None, DType::F16) => Form::F16,
            (None, DType::BF16) => Form::BF16,
            _ => Form::F32,
        })
    }
    /// Whether it takes blocks of a type as they are.
    fn takes(self, dtype: DType) -> bool {
        match self {
            Form::F32 => dtype == DType::F32,
            _ => true,
        }
    }
    pub fn is_quantised(self) -> bool {
        matches!(self, Form::Blocks(_))
    }
    /// Elements of a row in a step, and bytes of sixteen rows of one.
    pub fn step(self) -> (usize, usize) {
        match self {
            Form::F32 => (1, 4 * LANES),
            Form::F16 | Form::BF16 => (1, 2 * LANES),
            Form::Blocks(scheme) => (scheme.elements(), scheme.step()),
        }
    }
}

/// A matrix `[n, k]` in groups of sixteen rows; rows beyond the last are zeros.
pub struct Packed {
    pub form: Form,
    pub n: usize,
    pub k: usize,
    dtype: DType,
    data: Lines,
}

impl Packed {
    /// # Errors
    /// Memory that is not there; rows of parts of blocks; a type that no product reads.
    pub fn new(dtype: DType, n: usize, k: usize) -> Result<Packed> {
        let form = Form::of(dtype).ok_or_else(|| Error::op("weight", "", format!("no product reads {dtype}")))?;
        let block = form.step().0;
        if !k.is_multiple_of(block) {
            return Err(Error::op("weight", "", format!("rows of {k} are not whole blocks of {block}")));
        }
        let mut packed = Packed { form, n, k, dtype, data: Lines::default() };
        packed.data = Lines::new(packed.groups() * packed.group_bytes())?;
        Ok(packed)
    }
    pub fn groups(&self) -> usize {
        self.n.div_ceil(LANES)
    }
    fn steps(&self) -> usize {
        self.k / self.form.step().0
    }
    pub fn group_bytes(&self) -> usize {
        self.steps() * self.form.step().1
    }
    pub fn len(&self) -> usize {
        self.data.len()
    }
    /// Where a group begins.
    pub fn group(&self, g: usize) -> *const u8 {
        debug_assert!(g < self.groups());
        self.data.bytes()[g * self.group_bytes()..].as_ptr()
    }

    /// Takes blocks as a file has them, from number `first` of the matrix on; several threads share many of them.
    ///
    /// # Errors
    /// Blocks beyond the end.
    pub fn put(&mut self, first: usize, bytes: &[u8], threads: usize) -> Result<()> {
        let dtype = self.dtype;
        if !self.form.takes(dtype) {
            let values = format::decode(dtype, bytes);
            return self.put_blocks(DType::F32, first * dtype.block(), bytemuck::cast_slice(&values), threads);
        }
        self.put_blocks(dtype, first, bytes, threads)
    }

    fn put_blocks(&mut self, dtype: DType, first: usize, bytes: &[u8], threads: usize) -> Result<()> {
        let places = Places { form: self.form, size: dtype.block_bytes(), steps: self.steps() };
        let blocks = bytes.len() / places.size;
        if first + blocks > self.n * places.steps {
            return Err(Error::op("weight", "", format!("{} bytes from {first} on reach past its end", bytes.len())));
        }
        let (of_group, group) = (places.steps * LANES, self.group_bytes());
        if blocks == 0 {
            return Ok(());
        }
        let data = &mut self.data.bytes_mut()[first / of_group * group..];
        let each = blocks.div_ceil(of_group).div_ceil(threads.max(1)).max(LEAST_SHARE.div_ceil(group));
        if !first.is_multiple_of(of_group) || blocks <= each * of_group {
            places.put(first % of_group, bytes, data);
            return Ok(());
        }
        let shares = bytes.chunks(each * of_group * places.size).zip(data.chunks_mut(each * group));
        std::thread::scope(|scope| {
            for (bytes, data) in shares {
                scope.spawn(move || places.put(0, bytes, data));
            }
        });
        Ok(())
    }

    /// The elements of one row.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        let (lane, (_, span)) = (row % LANES, self.form.step());
        let group = &self.data.bytes()[row / LANES * self.group_bytes()..][..self.group_bytes()];
        let half = |b: &[u8]| [b[2 * lane], b[2 * lane + 1]];
        let each = out.iter_mut().zip(group.chunks_exact(span));
        match self.form {
            Form::F32 => each.for_each(|(y, b)| {
                *y = f32::from_le_bytes([b[4 * lane], b[4 * lane + 1], b[4 * lane + 2], b[4 * lane + 3]]);
            }),
            Form::F16 => each.for_each(|(y, b)| *y = f16::from_le_bytes(half(b)).to_f32()),
            Form::BF16 => each.for_each(|(y, b)| *y = bf16::from_le_bytes(half(b)).to_f32()),
            // SAFETY: plain code runs on any CPU, and the group has all steps of its rows.
            Form::Blocks(scheme) => unsafe { scheme.with(Row { lane, group, out }) },
        }
    }
}

/// The fewest bytes for which a thread is worth its start.
const LEAST_SHARE: usize = 1 << 20;

/// Where blocks of a matrix go.
#[derive(Clone, Copy)]
struct Places {
    form: Form,
    /// Bytes of a block in the file, and blocks of a row.
    size: usize,
    steps: usize,
}

impl Places {
    /// Puts blocks from number `first` on, counted from the group at which `data` begins.
    fn put(self, first: usize, bytes: &[u8], data: &mut [u8]) {
        let (size, span, mut numbers) = (self.size, self.form.step().1, Numbers::default());
        let (mut row, mut step) = (first / self.steps, first % self.steps);
        for block in bytes.chunks_exact(size) {
            let (at, lane) = ((row / LANES * self.steps + step) * span, row % LANES);
            let to = &mut data[at..at + span];
            match self.form {
                Form::F32 | Form::F16 | Form::BF16 => to[lane * size..(lane + 1) * size].copy_from_slice(block),
                Form::Blocks(scheme) => scheme.put(block, &mut numbers, lane, to),
            }
            step += 1;
            if step == self.steps {
                (row, step) = (row + 1, 0);
            }
        }
    }
}

/// One lane of a group.
struct Row<'a> {
    lane: usize,
    group: &'a [u8],
    out: &'a mut [f32],
}

impl Visit for Row<'_> {
    type Out = ();
    unsafe fn visit<B: Blocks>(self, blocks: B) {
        let steps = self.out.chunks_exact_mut(BLOCK * B::SHARE).zip(self.group.chunks_exact(B::STEP));
        for (out, step) in steps {
            // SAFETY: a step has its head and all its blocks.
            let head = unsafe { blocks.head::<Scalar>(step.as_ptr()) };
            for (y, block) in out.chunks_exact_mut(BLOCK).zip(step[B::HEAD..].chunks_exact(B::BYTES)) {
                // SAFETY: the slice is one block.
                let block = unsafe { blocks.open::<Scalar>(head, block.as_ptr()) };
                for (i, y) in y.iter_mut().enumerate() {
                    let half = i / 16;
                    let q = block.q[i / 4][self.lane * 4 + i % 4];
                    *y = q as f32 * block.d[half][self.lane] + block.m[half][self.lane];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_format_come_back_as_they_were_put_in_any_pieces() {
        for dtype in DType::weights() {
            let (n, k) = (19, 512);
            let values: Vec<f32> = (0..n * k).map(|i| ((i * 37 % 101) as f32 - 50.0) / 20.0).collect();
            let bytes = format::encode(dtype, &values);
            let want = format::decode(dtype, &bytes);
            let mut packed = Packed::new(dtype, n, k).unwrap();
            let size = dtype.block_bytes();
            let blocks = bytes.len() / size;
            for from in (0..blocks).step_by(7).rev() {
                let to = (from + 7).min(blocks);
                packed.put(from, &bytes[from * size..to * size], 1).unwrap();
            }
            assert!(packed.put(blocks, &bytes[..size], 1).is_err());
            let mut row = vec![0.0; k];
            for r in 0..n {
                packed.row(r, &mut row);
                assert_eq!(row, want[r * k..(r + 1) * k], "{dtype} row {r}");
            }
        }
    }

    #[test]
    fn threads_put_blocks_where_one_does() {
        for dtype in [DType::F32, DType::F16].into_iter().chain(DType::quantised()) {
            let (n, k) = (2011, 2048);
            let bytes: Vec<u8> =
                (0..n * k / dtype.block() * dtype.block_bytes()).map(|i| (i * 31 % 251) as u8).collect();
            let filled = |threads| {
                let mut packed = Packed::new(dtype, n, k).unwrap();
                packed.put(0, &bytes, threads).unwrap();
                packed.data.bytes().to_vec()
            };
            assert!(filled(1) == filled(3), "{dtype}");
        }
    }

    #[test]
    fn weights_stay_as_narrow_as_in_their_file() {
        for dtype in DType::weights() {
            let packed = Packed::new(dtype, 256, 512).unwrap();
            let file = 256 * 512 / dtype.block() * dtype.block_bytes();
            assert!(packed.len() * 100 <= file * 120, "{dtype}: {} bytes, {file} in a file", packed.len());
        }
    }
}
