//! How elements are stored: one file a format, and one line in the list below.
//!
//! A [`DType`] is a number that stands for a [`Format`]. Nothing outside of this room asks which format a weight has; it asks
//! the format how large its blocks are, what they mean, and how a kernel reads them.
//!
//! A file keeps a block's scales beside its quants, so that blocks are of 18, 34 or 210 bytes, which no GPU loads well. A device
//! buffer therefore holds planes: of all blocks what loads by sixteen bytes, then what is beside it ([`Planes`]).

mod describe;
mod levels;
mod planes;
mod wgsl;
mod wide;

mod bfloat16;
mod five;
mod float16;
mod float32;
mod integers;
mod iq4_nl;
mod iq4_xs;
mod mixes;
mod mxfp4;
mod nibbles;
mod pieces;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod search;
mod six_bit;
mod table;

pub use describe::{Class, Float, Format};
pub use levels::{GROUP, Levels, Numbers, Scales};
pub use mixes::{MIXES, Mix};
pub use pieces::{MICROSCALED, MICROSCALED_BYTES, SCALED_FLOAT8, microscaled, scaled_float8};
pub use planes::{MAX_PLANES, Planes};
pub use wgsl::{Blocks, Plain, RUN, Store, Wgsl};
pub(crate) use wide::widest;

use std::fmt;

/// How an element is stored. Arithmetic on any float type is done in f32 on devices.
///
/// ```
/// use warpweft::DType;
///
/// assert_eq!((DType::F16.block(), DType::F16.block_bytes()), (1, 2));
/// // Blocks of 32 elements of 4 bits, with a scale of 16.
/// assert_eq!((DType::Q4_0.block(), DType::Q4_0.block_bytes()), (32, 18));
/// assert_eq!(DType::named("q4_0"), Some(DType::Q4_0));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DType(u8);

/// The list of all formats: the constant, and the static that says what it is.
macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident = $format:path;)*) => {
        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        enum Number { $($name,)* Count }

        #[allow(non_upper_case_globals)]
        impl DType {
            $($(#[$doc])* pub const $name: DType = DType(Number::$name as u8);)*
            /// Every type there is.
            pub const ALL: [DType; Number::Count as usize] = [$(DType::$name),*];
        }

        static FORMATS: [&Format; Number::Count as usize] = [$(&$format),*];
    };
}

formats! {
    /// IEEE binary32.
    F32 = float32::FORMAT;
    /// IEEE binary16, two to a 32-bit word on devices, so that no device feature is needed.
    F16 = float16::FORMAT;
    /// Signed 32-bit integer.
    I32 = integers::I32;
    /// Unsigned 32-bit integer: token ids, indices.
    U32 = integers::U32;
    /// Truth, held as a 32-bit 0 or 1.
    Bool = integers::BOOL;
    /// The upper half of an IEEE binary32.
    BF16 = bfloat16::FORMAT;
    /// 32 weights of 4 bits with one f16 scale: `d · (q − 8)`.
    Q4_0 = q4_0::FORMAT;
    /// 32 weights of 4 bits with an f16 scale and minimum: `d · q + m`.
    Q4_1 = q4_1::FORMAT;
    /// 32 weights of 8 bits with one f16 scale: `d · q`.
    Q8_0 = q8_0::FORMAT;
    /// 32 weights of 5 bits with one f16 scale: `d · (q − 16)`.
    Q5_0 = q5_0::FORMAT;
    /// 32 weights of 5 bits with an f16 scale and minimum: `d · q + m`.
    Q5_1 = q5_1::FORMAT;
    /// 256 weights of 4 bits; each 32 of them have a scale and a minimum of 6 bits.
    Q4_K = q4_k::FORMAT;
    /// 256 weights of 5 bits; each 32 of them have a scale and a minimum of 6 bits.
    Q5_K = q5_k::FORMAT;
    /// 256 weights of 6 bits; each 16 of them have a scale of 8 bits.
    Q6_K = q6_k::FORMAT;
    /// 256 weights of 2 bits; each 16 of them have a scale and a minimum of 4 bits.
    Q2_K = q2_k::FORMAT;
    /// 256 weights of 3 bits; each 16 of them have a scale of 6 bits.
    Q3_K = q3_k::FORMAT;
    /// 32 weights of 4 bits that choose from uneven steps, with one f16 scale.
    IQ4_NL = iq4_nl::FORMAT;
    /// 256 weights of 4 bits that choose from uneven steps; each 32 of them have a scale of 6 bits.
    IQ4_XS = iq4_xs::FORMAT;
    /// 32 weights of 4 bits in floating point, with one power of two.
    MXFP4 = mxfp4::FORMAT;
}

/// GGUF's numbers of types that are known by name and size only: name, elements of a block, its bytes.
const OTHERS: &[(u32, &str, u64, u64)] = &[
    (9, "q8_1", 32, 36),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
];

/// The type that trials of an adapter use: four bits with a scale, as most weights that people run are.
pub const TYPICAL: DType = DType::Q4_1;

/// In what keys and values may be kept.
pub const KEPT: [DType; 3] = [DType::F32, DType::F16, DType::Q8_0];

/// Types whose kernels are timed on an adapter; the others take the variants of one of these ([`DType::stand_in`]).
pub const SAMPLES: [DType; 4] = [DType::F32, DType::F16, TYPICAL, DType::Q8_0];

impl DType {
    /// What it is.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn format(self) -> &'static Format {
        FORMATS[self.0 as usize]
    }
    /// The type of this name.
    pub fn named(name: &str) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.name() == name)
    }
    /// The type of a GGUF file's number.
    pub fn from_ggml(number: u32) -> Option<DType> {
        DType::ALL.into_iter().find(|d| d.format().ggml == Some(number))
    }
    /// Types that matrices of weights may have: all that decode to floats.
    pub fn weights() -> impl Iterator<Item = DType> + Clone {
        DType::ALL.into_iter().filter(|d| d.is_float())
    }
    /// Types of whole blocks.
    pub fn quantised() -> impl Iterator<Item = DType> + Clone {
        DType::ALL.into_iter().filter(|d| d.is_quantised())
    }
    /// The sampled type whose timings hold for this one.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn stand_in(self) -> DType {
        match self {
            sample if SAMPLES.contains(&sample) => sample,
            blocks if blocks.is_quantised() => TYPICAL,
            narrow if narrow.is_narrow() => DType::F16,
            _ => DType::F32,
        }
    }
    /// Elements in one block (1 for plain types).
    pub fn block(self) -> usize {
        self.format().block
    }
    /// Bytes of one block in a file.
    pub fn block_bytes(self) -> usize {
        self.format().bytes
    }
    /// Bytes that `elements` take in a file, or `None` on overflow or a part of a block.
    pub fn bytes(self, elements: u64) -> Option<u64> {
        let block = self.block() as u64;
        if !elements.is_multiple_of(block) {
            return None;
        }
        (elements / block).checked_mul(self.block_bytes() as u64)
    }
    /// Whether elements are stored in blocks that share scales.
    pub fn is_quantised(self) -> bool {
        self.block() > 1
    }
    /// Whether it decodes to floats.
    pub fn is_float(self) -> bool {
        self.format().class == Class::Float
    }
    /// A plain float, which arithmetic reads.
    pub fn is_real(self) -> bool {
        self.is_float() && !self.is_quantised()
    }
    /// A plain float of less than a word: several lie in one on devices.
    pub fn is_narrow(self) -> bool {
        self.is_float() && !self.is_quantised() && self.block_bytes() < 4
    }
    /// How kernels read and write it, for plain floats.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn plain(self) -> Option<&'static Plain> {
        match &self.format().float()?.wgsl {
            Wgsl::Plain(plain) => Some(plain),
            Wgsl::Blocks(_) => None,
        }
    }
    /// How kernels write it, for floats of sixteen bits.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn store(self) -> Option<&'static Store> {
        self.plain()?.store.as_ref()
    }
    /// Whether it is i32 or u32.
    pub fn is_int(self) -> bool {
        self.format().class == Class::Int
    }
    /// How files and people call it, such as `q4_0`.
    pub fn name(self) -> &'static str {
        self.format().name
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
impl fmt::Debug for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Name, elements and bytes of a block of a GGUF type that cannot be run, by its number in files.
pub fn other(number: u32) -> Option<(&'static str, u64, u64)> {
    OTHERS.iter().find(|o| o.0 == number).map(|o| (o.1, o.2, o.3))
}

/// The names of all types that weights may have, for messages.
pub fn names() -> String {
    DType::weights().map(DType::name).collect::<Vec<_>>().join(", ")
}

/// The values of whole blocks of a float type, as many as `out` has.
pub fn decode_into(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    if let Some(float) = dtype.format().float() {
        (float.decode)(bytes, out);
    }
}

/// All values of file bytes of a float type.
pub fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block()];
    decode_into(dtype, bytes, &mut out);
    out
}

/// The value of one element.
pub fn decode_one(dtype: DType, bytes: &[u8], i: usize) -> f32 {
    let (block, size) = (dtype.block(), dtype.block_bytes());
    let mut values = [0.0; levels::MAX_BLOCK];
    decode_into(dtype, &bytes[i / block * size..][..size], &mut values[..block]);
    values[i % block]
}

/// Narrows or quantises `values`, a multiple of the type's block, to file bytes.
///
/// # Panics
/// For a type that holds no floats.
pub fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let float = dtype.format().float().unwrap_or_else(|| panic!("{dtype} holds no floats"));
    let mut out = Vec::with_capacity(values.len() / dtype.block() * dtype.block_bytes());
    (float.encode)(values, &mut out);
    out
}

/// A number as a plain float type holds it.
pub fn rounded(dtype: DType, x: f64) -> f64 {
    decode_one(dtype, &encode(dtype, &[x as f32]), 0) as f64
}

/// Σ of the elements of a row of whole blocks, each times one of `x`.
pub fn dot(dtype: DType, row: &[u8], x: &[f32]) -> f32 {
    let Some(float) = dtype.format().float() else { return 0.0 };
    if let Some(dot) = float.dot {
        return dot(row, x);
    }
    let mut values = [0.0; levels::MAX_BLOCK];
    let blocks = (levels::MAX_BLOCK / dtype.block()).max(1);
    let mut sum = 0.0;
    for (bytes, x) in row.chunks(blocks * dtype.block_bytes()).zip(x.chunks(blocks * dtype.block())) {
        let values = &mut values[..x.len()];
        (float.decode)(bytes, values);
        sum += wide::dot(values, x);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_is_described_as_it_is() {
        let mut numbers = std::collections::HashSet::new();
        for dtype in DType::ALL {
            let f = dtype.format();
            assert_eq!(DType::named(f.name), Some(dtype));
            assert!(f.ggml.is_none_or(|n| numbers.insert(n) && other(n).is_none()), "{dtype}: its number is taken");
            assert!(f.block <= levels::MAX_BLOCK && levels::MAX_BLOCK.is_multiple_of(f.block));
            match f.float().map(|float| &float.wgsl) {
                Some(Wgsl::Blocks(_)) => {
                    assert!(f.block.is_multiple_of(RUN), "{dtype}: blocks are whole runs");
                    let mut bytes: Vec<usize> = f.planes.iter().flat_map(|p| p.iter().cloned()).flatten().collect();
                    assert_eq!(
                        Planes::block_bytes(dtype, 0) % 16,
                        0,
                        "{dtype}: the first plane loads by sixteen bytes"
                    );
                    bytes.sort_unstable();
                    assert_eq!(bytes, (0..f.bytes).collect::<Vec<_>>(), "{dtype}: planes hold every byte once");
                }
                _ => assert!(f.planes.is_empty() && f.block == 1, "{dtype}"),
            }
        }
    }

    #[test]
    fn encoding_and_decoding_stay_within_a_step() {
        let values: Vec<f32> = (0..512).map(|i| ((i * 37 % 64) as f32 - 31.0) / 9.0).collect();
        for dtype in DType::weights() {
            let bytes = encode(dtype, &values);
            assert_eq!(bytes.len() as u64, dtype.bytes(512).unwrap());
            let back = decode(dtype, &bytes);
            let bits = dtype.block_bytes() as f32 * 8.0 / dtype.block() as f32;
            let step = 7.0 / (bits.min(7.0).floor() - 0.5).exp2();
            for (i, (a, b)) in back.iter().zip(&values).enumerate() {
                assert!((a - b).abs() <= step, "{dtype}: {a} for {b}, more than {step}");
                assert_eq!(*a, decode_one(dtype, &bytes, i));
            }
        }
    }

    #[test]
    fn rows_dot_as_decoded_values_do() {
        let w: Vec<f32> = (0..512).map(|i| ((i * 29 % 101) as f32 - 50.0) / 17.0).collect();
        let x: Vec<f32> = (0..512).map(|i| ((i * 13 % 67) as f32 - 33.0) / 9.0).collect();
        for dtype in DType::weights() {
            let bytes = encode(dtype, &w);
            let want: f64 = decode(dtype, &bytes).iter().zip(&x).map(|(a, b)| *a as f64 * *b as f64).sum();
            let got = dot(dtype, &bytes, &x) as f64;
            assert!((got - want).abs() < 2e-3, "{dtype}: {got} for {want}");
        }
    }

    #[test]
    fn a_known_q4_1_block_decodes_to_hand_computed_values() {
        // d = 0.5, m = -1; byte 0x21 holds q = 1 (element 0) and q = 2 (element 16).
        let mut block = vec![0x00, 0x38, 0x00, 0xbc];
        block.extend([0x21; 16]);
        let out = decode(DType::Q4_1, &block);
        assert_eq!((out[0], out[15], out[16], out[31]), (-0.5, -0.5, 0.0, 0.0));
    }
}
