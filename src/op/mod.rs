//! The op table: each op declared once, with its shape rule, cost, meaning, WGSL, docs, sample and error cases.
//!
//! F16 and the quantised types are how values are stored. Every op reads f16 where it reads f32; arithmetic
//! gives f32; ops that only move elements (views, concat, pad, append, assign) keep the type.

mod adjoint;
mod attention;
mod attrs;
pub mod build;
mod case;
pub mod collective;
mod delta;
mod expert;
mod grad;
mod index;
mod logic;
mod matmul;
mod norm;
mod pages;
mod reduce;
mod rule;
mod scalar;
mod scan;
pub mod shard;
mod view;
mod window;

pub use attention::{ATTENTION, ATTENTION_PART, ROPE};
pub use attrs::{Attention, Attrs, RopeLayout};
pub use build::{Build, Value};
pub use case::{Case, ErrorCase, Fill};
pub use collective::{
    ALL_GATHER, ALL_REDUCE, ALL_TO_ALL, BROADCAST_FROM, Collective, Exchange, OtherAxis, PERMUTE, RECEIVE,
    REDUCE_SCATTER, SEND,
};
pub use delta::DELTA_RULE;
pub use expert::EXPERT_MATMUL;
pub use grad::{Grad, Pull};
pub use index::{APPEND, ASSIGN, CAST, CONCAT, GATHER, IOTA, PAD, SCATTER, SCATTER_ADD};
pub use logic::{AND, MOD, NOT, OR, REM, SHL, SHR, XOR};
pub use matmul::MATMUL;
pub use norm::{LAYER_NORM, LOG_SOFTMAX, RMS_NORM, SOFTMAX};
pub use pages::PAGED_ATTENTION;
pub use reduce::{ARGMAX, MAX, MEAN, MIN, SUM};
pub use scalar::*;
pub use scan::{CUMPROD, CUMSUM, INT_MAX, INT_MIN, INT_SUM, PROD, TOP_INDICES};
pub use shard::Strategy;
pub use view::{BROADCAST, RESHAPE, SLICE, TRANSPOSE};
pub use window::{AVG_POOL, CONV, MAX_POOL, Window};

use crate::base::{Expr, Result, Type};

/// One op: everything about it, in one place.
pub struct OpDef {
    pub name: &'static str,
    /// What it computes: formula, operands with their shapes, attributes.
    pub doc: &'static str,
    /// The result's type, or why the operands do not fit. Errors carry the op's name and an empty node name.
    pub rule: fn(&Attrs, &[Type]) -> Result<Type>,
    /// How a mesh axis may cut it.
    pub shard: fn(&Attrs, &[Type], &Type) -> Vec<Strategy>,
    /// Floating-point operations for operands and a result of these types.
    pub cost: fn(&Attrs, &[Type], &Type) -> Expr,
    pub body: Body,
    /// What carries a gradient back through it.
    pub grad: Grad,
    /// How far a device may be from the f64 reference.
    pub within: Within,
    pub cases: fn() -> Vec<Case>,
    pub errors: fn() -> Vec<ErrorCase>,
}

/// What an op is made of.
pub enum Body {
    /// A function of one element of each operand (operands broadcast); fuses into anything.
    Scalar(Scalar),
    /// Looks at the same elements in another order; costs nothing where strides can say it.
    View,
    /// Has a reference function and kernels of its own.
    Primitive(Primitive),
    /// Moves values between ranks.
    Collective(Exchange),
    /// Written in other ops: the definition is the oracle, the fallback and the cost.
    /// `fused` names the kernel that a plan may use instead.
    Composite { define: fn(&mut dyn Build, &Attrs, &[Value]) -> Result<Value>, fused: Fused },
}

/// An elementwise function, in WGSL and in Rust.
pub struct Scalar {
    /// An expression in `x`, `y`, `z`: f32 (i32 and u32 where the rule allows them); truth is a u32 0 or 1.
    pub wgsl: &'static str,
    pub cpu: fn(&[f64]) -> f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Primitive {
    Matmul,
    Reduce(Reduce),
    Gather,
    ScatterAdd,
    Concat,
    Pad,
    Append,
    Assign,
    Cast,
    Iota,
    DeltaRule,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reduce {
    Sum,
    Mean,
    Max,
    Min,
    Argmax,
}

/// Kernels for whole composites.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// No kernel of its own: the definition's parts fuse by themselves.
    Parts,
    Softmax,
    LogSoftmax,
    LayerNorm,
    RmsNorm,
    Attention,
    PagedAttention,
    ExpertMatmul,
}

/// An error bound: `|got − want| ≤ abs + rel · |want|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Within {
    pub abs: f64,
    pub rel: f64,
}

impl Within {
    pub const EXACT: Within = Within { abs: 0.0, rel: 0.0 };
    pub const fn rel(rel: f64) -> Within {
        Within { abs: 1e-7, rel }
    }
    pub const fn abs(abs: f64) -> Within {
        Within { abs, rel: 1e-6 }
    }
    /// Whether `got` is close enough; NaN matches NaN and infinities match themselves.
    pub fn holds(&self, got: f64, want: f64) -> bool {
        if got.is_nan() || want.is_nan() {
            return got.is_nan() && want.is_nan();
        }
        got == want || (got - want).abs() <= self.abs + self.rel * want.abs()
    }
}

/// Declares a family of ops and lists them, so that none can be left out of the table.
macro_rules! ops {
    ($($(#[$meta:meta])* $id:ident = $def:expr;)*) => {
        $($(#[$meta])* pub static $id: crate::op::OpDef = $def;)*
        pub(super) static FAMILY: &[&crate::op::OpDef] = &[$(&$id),*];
    };
}
pub(crate) use ops;

/// Every op there is, in the order of the docs.
pub fn table() -> impl Iterator<Item = &'static OpDef> {
    let families = [
        matmul::FAMILY,
        expert::FAMILY,
        norm::FAMILY,
        attention::FAMILY,
        pages::FAMILY,
        delta::FAMILY,
        window::FAMILY,
        scalar::FAMILY,
        logic::FAMILY,
        reduce::FAMILY,
        scan::FAMILY,
        index::FAMILY,
        view::FAMILY,
        collective::FAMILY,
    ];
    families.into_iter().flatten().copied()
}

/// Every op that one device computes by itself: all but collectives.
pub fn computing() -> impl Iterator<Item = &'static OpDef> {
    table().filter(|d| !matches!(d.body, Body::Collective(_)))
}

/// The op of this name.
pub fn find(name: &str) -> Option<&'static OpDef> {
    table().find(|d| d.name == name)
}

impl OpDef {
    /// Whether this op computes elementwise and so fuses into its neighbours.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.body {
            Body::Scalar(s) => Some(s),
            _ => None,
        }
    }
    pub fn is(&self, other: &OpDef) -> bool {
        std::ptr::eq(self, other)
    }
}
impl PartialEq for OpDef {
    fn eq(&self, other: &OpDef) -> bool {
        self.is(other)
    }
}
impl std::fmt::Debug for OpDef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_op_has_a_unique_name_a_doc_and_cases_that_obey_its_rule() {
        let mut seen = std::collections::HashSet::new();
        for def in table() {
            assert!(seen.insert(def.name), "{} twice", def.name);
            assert!(def.doc.len() > 20, "{} lacks a doc", def.name);
            let cases = (def.cases)();
            assert!(!cases.is_empty(), "{} lacks cases", def.name);
            for case in cases {
                (def.rule)(&case.attrs, &case.types()).unwrap_or_else(|e| panic!("{}: {e}", def.name));
            }
            let errors = (def.errors)();
            assert!(!errors.is_empty(), "{} lacks error cases", def.name);
            for case in errors {
                let got = (def.rule)(&case.attrs, &case.types).expect_err(def.name).at_node("n").to_string();
                assert_eq!(got, format!("{} \"n\": {}", def.name, case.message));
            }
        }
    }
}
