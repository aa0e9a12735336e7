//! Elementwise ops: in vectors where f32 operands lie side by side, else element by element.

use super::isa::{Isa, Kernel, LANES};
use super::product::{Act, load_some, store_some};
use super::view::View;
use crate::base::DType;
use crate::format;
use crate::op::{OpDef, Scalar};
use std::ops::Range;

/// Elements of a unit of a map.
pub const RUN: usize = 64;

/// An op that has a vector form.
#[derive(Debug, Clone, Copy)]
enum Fast {
    Add,
    Sub,
    Mul,
    Div,
    Neg,
    Act(Act),
}

fn fast(def: &OpDef) -> Option<Fast> {
    Some(match def.name {
        "add" => Fast::Add,
        "sub" => Fast::Sub,
        "mul" => Fast::Mul,
        "div" => Fast::Div,
        "neg" => Fast::Neg,
        "silu" => Fast::Act(Act::Silu),
        "gelu" => Fast::Act(Act::Gelu),
        "gelu_tanh" => Fast::Act(Act::GeluTanh),
        "relu" => Fast::Act(Act::Relu),
        "sigmoid" => Fast::Act(Act::Sigmoid),
        _ => return None,
    })
}

/// The number that a word stands for.
pub fn number(dtype: DType, word: u32) -> f64 {
    match dtype {
        DType::I32 => word as i32 as f64,
        DType::U32 | DType::Bool => word as f64,
        _ => f32::from_bits(word) as f64,
    }
}

/// The word for a number: whole numbers are cut, halves rounded.
pub fn word(dtype: DType, x: f64) -> u32 {
    match dtype {
        DType::I32 => (x as i64) as i32 as u32,
        DType::U32 | DType::Bool => (x as i64) as u32,
        narrow if narrow.is_narrow() => (format::rounded(narrow, x) as f32).to_bits(),
        _ => (x as f32).to_bits(),
    }
}

/// Runs of [`RUN`] elements of an elementwise op.
pub struct Map<'a> {
    pub def: &'a OpDef,
    pub scalar: &'a Scalar,
    pub dtype: DType,
    pub out: View,
    pub args: &'a [(View, DType)],
    pub units: Range<usize>,
}

impl Map<'_> {
    /// Operands that lie as the result does, with a step of 1, or are one element, with a step of 0.
    fn steps(&self) -> Option<[usize; 3]> {
        let mut steps = [0; 3];
        for (step, (v, _)) in steps.iter_mut().zip(self.args) {
            *step = match v.shape() == self.out.shape() && v.is_dense() {
                true => 1,
                false if v.count() == 1 => 0,
                false => return None,
            };
        }
        Some(steps)
    }

    /// Where an operand's elements are for one element of the result.
    unsafe fn plain(&self, range: Range<usize>) {
        unsafe {
            let mut views = [self.out; 3];
            let n = self.args.len().min(3);
            for (to, (v, _)) in views.iter_mut().zip(self.args) {
                *to = v.broadcast(self.out.shape());
            }
            let mut x = [0.0; 3];
            for i in range {
                for a in 0..n {
                    x[a] = number(self.args[a].1, *views[a].ptr.add(views[a].offset(i)));
                }
                let y = match (self.dtype.is_int(), self.def.name) {
                    // WGSL: an integer divided by zero stays.
                    (true, "div") if x[1] == 0.0 => x[0],
                    // Integers wrap; their product may have more bits than an f64 holds.
                    (true, "mul") => (x[0] as i64).wrapping_mul(x[1] as i64) as u32 as f64,
                    _ => (self.scalar.cpu)(&x[..n]),
                };
                *self.out.ptr.add(i) = word(self.dtype, y);
            }
        }
    }

    /// One row of the last axis at a time, where operands have steps of 1 or 0 along it.
    #[inline(always)]
    unsafe fn rows<S: Isa>(&self, op: Fast, range: Range<usize>) -> bool {
        unsafe {
            let width = self.out.width();
            let mut views = [self.out; 2];
            for (to, (v, _)) in views.iter_mut().zip(self.args) {
                *to = v.broadcast(self.out.shape());
                if self.out.rank == 0 || width < LANES || (to.strides[to.rank - 1] > 1) {
                    return false;
                }
            }
            let mut i = range.start;
            while i < range.end {
                let end = range.end.min((i / width + 1) * width);
                let place = |v: &View| (v.f32s().cast_const().add(v.offset(i)), v.strides[v.rank - 1]);
                let (x, y) = (place(&views[0]), place(&views[1]));
                run::<S>(op, x, y, self.out.f32s().add(i), end - i);
                i = end;
            }
            true
        }
    }
}

/// `n` elements; operands have a step of 1 or 0.
#[inline(always)]
unsafe fn run<S: Isa>(op: Fast, x: (*const f32, usize), y: (*const f32, usize), out: *mut f32, n: usize) {
    unsafe {
        for i in (0..n).step_by(LANES) {
            let whole = i + LANES <= n;
            let at = |(p, step): (*const f32, usize)| match step {
                0 => S::splat(*p),
                _ => load_some::<S>(p.add(i), n - i, whole),
            };
            let a = at(x);
            let v = match op {
                Fast::Add => S::add(a, at(y)),
                Fast::Sub => S::sub(a, at(y)),
                Fast::Mul => S::mul(a, at(y)),
                Fast::Div => S::div(a, at(y)),
                Fast::Neg => S::mul(a, S::splat(-1.0)),
                Fast::Act(act) => act.apply::<S>(a),
            };
            store_some::<S>(out.add(i), v, n - i, whole);
        }
    }
}

impl Kernel for Map<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Isa>(self) {
        unsafe {
            let count = self.out.count();
            let range = (self.units.start * RUN).min(count)..(self.units.end * RUN).min(count);
            let floats = self.dtype == DType::F32 && self.args.iter().all(|a| a.1.is_real());
            if let Some(op) = fast(self.def).filter(|_| floats && !self.args.is_empty()) {
                if let Some(steps) = self.steps() {
                    let place = |i: usize| {
                        let v = &self.args[i.min(self.args.len() - 1)].0;
                        (v.f32s().cast_const().add(range.start * steps[i]), steps[i])
                    };
                    let (x, y) = (place(0), place(if self.args.len() > 1 { 1 } else { 0 }));
                    return run::<S>(op, x, y, self.out.f32s().add(range.start), range.len());
                }
                if self.rows::<S>(op, range.clone()) {
                    return;
                }
            }
            self.plain(range);
        }
    }
}
