//! A product, its axes, and the pieces of its right operand: what the emitters of all its forms share.

use super::code::Code;
use super::lowering::Lower;
use super::operand::{Operand, beside_at, operand, read_bytes, u};
use super::{BufferId, Ceil, Param};
use crate::base::{Dim, Expr, Layout, Precision, Result, Shape};
use crate::kernel::matmul::{Form, Right, Variant};
use crate::kernel::vector;
use crate::op::Value;

/// A product and its axes: rows and inner of the left operand, inner and columns of the right one.
pub(super) struct Product {
    pub node: Value,
    pub a: Operand,
    pub b: Operand,
    pub am: usize,
    pub ak: usize,
    pub bk: usize,
    pub bn: usize,
    pub out: Shape,
    pub lead: Shape,
    pub right: Right,
}

impl Product {
    pub fn of(l: &Lower, anchor: Value, (ta, tb): (bool, bool), args: &[Value]) -> Result<Product> {
        let (a, b) = (operand(l, args[0])?, operand(l, args[1])?);
        let out = l.graph.node(anchor).ty.shape.clone();
        let axes = |o: &Operand, swapped: bool| {
            let r = o.shape.rank();
            if swapped { (r - 1, r - 2) } else { (r - 2, r - 1) }
        };
        let ((am, ak), (bk, bn)) = (axes(&a, ta), axes(&b, tb));
        let texels = l.plan.buffer(b.buffer).texels;
        let right = Right { dtype: b.dtype, rows: b.layout.strides[bk].is(1) || b.dtype.is_quantised(), texels };
        let lead = Shape(out[..out.rank() - 2].to_vec());
        Ok(Product { node: anchor, a, b, am, ak, bk, bn, out, lead, right })
    }
    pub fn m(&self) -> Dim {
        self.out[self.out.rank() - 2]
    }
    pub fn n(&self) -> Dim {
        self.out[self.out.rank() - 1]
    }
    pub fn k(&self) -> Dim {
        self.a.shape[self.ak]
    }
    /// The words with which the planes beside the first begin in a buffer of the right operand's.
    pub fn beside(&self, l: &Lower, buffer: BufferId) -> [i64; 2] {
        beside_at(l, self.b.dtype, buffer, self.k().bound() as u64)
    }
}

/// The buffer that holds outputs `first` and on of the right operand's.
pub(super) struct Piece {
    pub buffer: BufferId,
    pub first: i64,
    pub n: Expr,
    /// The words with which its planes beside the first begin.
    pub beside: [i64; 2],
    /// Whether it is one of several.
    pub split: bool,
}

impl Piece {
    /// Bytes of the right operand that it reads.
    pub fn weights(&self, l: &Lower, p: &Product) -> Expr {
        if self.split { Expr::new(l.plan.buffer(self.buffer).bytes as i64) } else { read_bytes(&p.b) }
    }
    /// Leaves the last dispatch this piece's share of the product's work.
    pub fn share(&self, l: &mut Lower, p: &Product) {
        let n = p.n().bound();
        l.share(|flops| flops.portion(self.first..self.first + self.n.bound() as i64, n));
    }
}

/// The numbers that [`params`] gives.
pub(super) const FIELDS: &[&str] = &[
    "m", "n", "k", "a0", "a_row", "a_col", "b0", "b_row", "b_col", "y0", "y_row", "m0", "n0", "four", "s0", "s1",
    "batch",
];

/// The numbers of a dispatch that makes `rows` rows from row `m0` on.
pub(super) fn params(p: &Product, piece: &Piece, rows: Expr, m0: i64) -> Vec<(String, Param)> {
    let (a, b) = (&p.a.layout, &p.b.layout);
    vec![
        u("m", rows),
        u("n", piece.n.clone()),
        u("k", p.k()),
        u("a0", a.offset.clone()),
        u("a_row", a.strides[p.am].clone()),
        u("a_col", a.strides[p.ak].clone()),
        u("b0", if piece.split { Expr::new(0) } else { b.offset.clone() }),
        u("b_row", b.strides[p.bn].clone()),
        u("b_col", b.strides[p.bk].clone()),
        u("y0", 0),
        u("y_row", p.n()),
        u("m0", m0),
        u("n0", piece.first),
        u("four", 4),
        u("s0", piece.beside[0]),
        u("s1", piece.beside[1]),
        u("batch", p.lead.count()),
    ]
}

pub(super) fn batch(code: &mut Code, name: &str, o: &Operand, lead: &Shape) -> String {
    let r = o.shape.rank() - 2;
    let own = Shape(o.shape[..r].to_vec());
    let layout = Layout { offset: Expr::new(0), strides: o.layout.strides[..r].to_vec() };
    code.offset_function(name, lead, &layout.broadcast(&own, lead))
}

/// Whether a grid may go beyond the device's along an axis.
pub(super) fn is_long(l: &Lower, grid: &[Ceil; 3]) -> bool {
    grid.iter().any(|c| c.n.bound().div_ceil(c.by as u64) > l.caps.grid as u64)
}

/// All rows, whose number is small at its bound.
pub(super) fn vector_spec(p: &Product, v: Variant) -> vector::Spec {
    vector::Spec {
        right: p.right,
        rows: p.m().bound().max(1) as u32,
        outputs: v.tn,
        along: vector::LANES * v.tn / v.bn,
        subgroups: v.form == Form::Subgroup,
        int8: v.precision == Precision::Int8,
    }
}
