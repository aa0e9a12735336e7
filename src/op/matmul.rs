//! Matrix multiplication.

use super::case::{f32s, normal, of};
use super::{Attrs, Body, Case, ErrorCase, Fill, Grad, OpDef, Primitive, Within, grad, ops, rule, shard};
use crate::base::{DType, Dim, Expr, Result, Shape, TYPICAL, Type};

ops! {
    MATMUL = OpDef {
        name: "matmul",
        doc: "y[…, m, n] = Σₖ a[…, m, k] · b[…, k, n], summed in f32. Leading axes broadcast. `ta`, `tb` swap the last two axes \
              of an operand first. a is f32 or f16; b is f32, f16, bf16 or, with `tb` (rows of weights), of a type in blocks, decoded in the kernel.",
        rule: |attrs, t| matmul_rule(attrs, t).map(|s| rule::float_result(s.out)),
        shard: shard::matmul,
        cost: |attrs, t, out| match matmul_rule(attrs, t) {
            Ok(s) => out.shape.count() * Expr::from(s.k) * 2,
            Err(_) => Expr::new(0),
        },
        body: Body::Primitive(Primitive::Matmul),
        grad: Grad::Rule(grad::matmul),
        within: Within { abs: 2e-4, rel: 2e-5 },
        cases,
        errors,
    };
}

struct Sizes {
    out: Shape,
    k: Dim,
}

fn matmul_rule(attrs: &Attrs, types: &[Type]) -> Result<Sizes> {
    rule::arity("matmul", types, 2)?;
    let Attrs::Matmul { ta, tb } = *attrs else { return rule::wrong_attrs("matmul", attrs) };
    let (a, b) = (&types[0], &types[1]);
    rule::real("matmul", "left operand", a)?;
    if b.dtype.is_quantised() {
        if !tb || b.shape.rank() != 2 {
            return rule::err("matmul", format!("right operand {b} is quantised: it must be rows [n, k] with tb"));
        }
    } else {
        rule::real("matmul", "right operand", b)?;
    }
    if a.shape.rank() < 2 || b.shape.rank() < 2 {
        return rule::err("matmul", format!("operands {a} and {b} must have two axes or more"));
    }
    let last2 = |s: &Shape, t: bool| {
        let (r, c) = (s[s.rank() - 2], s[s.rank() - 1]);
        if t { (c, r) } else { (r, c) }
    };
    let ((m, k), (k2, n)) = (last2(&a.shape, ta), last2(&b.shape, tb));
    if k != k2 {
        return rule::err("matmul", format!("inner dimensions differ, {k} and {k2}"));
    }
    let lead = |s: &Shape| Shape(s[..s.rank() - 2].to_vec());
    let Some(mut out) = lead(&a.shape).broadcast(&lead(&b.shape)) else {
        return rule::err("matmul", format!("leading axes of {} and {} do not broadcast", a.shape, b.shape));
    };
    out.0.extend([m, n]);
    Ok(Sizes { out, k })
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    let plain = [
        ([1, 1], [1, 1]),
        ([3, 17], [17, 5]),
        ([17, 129], [129, 33]),
        ([129, 64], [64, 132]),
        ([1, 576], [576, 96]),
        ([70, 40], [40, 128]),
        ([300, 64], [64, 24]),
        ([7, 96], [96, 34]),
        ([33, 1030], [1030, 20]),
    ];
    for (a, b) in plain {
        cases.push(Case::new(vec![normal(a), normal(b)], Attrs::Matmul { ta: false, tb: false }));
        let (at, bt) = ([a[1], a[0]], [b[1], b[0]]);
        cases.push(Case::new(vec![normal(a), normal(bt)], Attrs::Matmul { ta: false, tb: true }));
        cases.push(Case::new(vec![normal(at), normal(b)], Attrs::Matmul { ta: true, tb: false }));
        cases.push(Case::new(vec![normal(at), normal(bt)], Attrs::Matmul { ta: true, tb: true }));
    }
    let no = Attrs::Matmul { ta: false, tb: false };
    for (a, b) in [([2, 3, 17, 5], [2, 3, 5, 9]), ([2, 1, 4, 8], [1, 3, 8, 12]), ([1, 2, 1, 16], [2, 1, 16, 3])] {
        cases.push(Case::new(vec![normal(a), normal(b)], no.clone()));
    }
    cases.push(Case::new(vec![normal([20, 3, 8]), normal([20, 8, 5])], no.clone()));
    cases.push(Case::new(vec![normal([2, 5, 12]), normal([12, 8])], no.clone()));
    cases.push(Case::new(vec![normal([0, 4]), normal([4, 3])], no.clone()));
    cases.push(Case::new(vec![normal([3, 0]), normal([0, 4])], no.clone()));
    cases.push(Case::new(vec![(of(DType::F16, [3, 18]), Fill::Normal), (of(DType::F16, [18, 7]), Fill::Normal)], no));
    let rows = Attrs::Matmul { ta: false, tb: true };
    for dtype in DType::weights().filter(|d| *d != DType::F32) {
        let whole = |k: usize| k.next_multiple_of(dtype.block()) as i64;
        for (m, n, k) in [
            (1, 17, 64),
            (1, 129, 1088),
            (2, 5, 2144),
            (3, 33, 96),
            (37, 100, 64),
            (130, 3, 32),
            (7, 35, 96),
            (20, 12, 1536),
        ] {
            let k = whole(k);
            cases.push(Case::new(vec![normal([m, k]), (of(dtype, [n, k]), Fill::Normal)], rows.clone()));
        }
        let k = whole(64);
        cases.push(Case::new(vec![normal([2, 3, k]), (of(dtype, [40, k]), Fill::Normal)], rows.clone()));
    }
    cases
}

fn errors() -> Vec<ErrorCase> {
    let no = Attrs::Matmul { ta: false, tb: false };
    vec![
        ErrorCase::new(vec![f32s([2, 4096]), f32s([4095, 3])], no.clone(), "inner dimensions differ, 4096 and 4095"),
        ErrorCase::new(
            vec![f32s([4]), f32s([4, 3])],
            no.clone(),
            "operands f32[4] and f32[4, 3] must have two axes or more",
        ),
        ErrorCase::new(
            vec![f32s([2, 3, 4]), f32s([3, 4, 5])],
            no.clone(),
            "leading axes of [2, 3, 4] and [3, 4, 5] do not broadcast",
        ),
        ErrorCase::new(
            vec![f32s([2, 32]), of(TYPICAL, [32, 32])],
            no.clone(),
            "right operand q4_1[32, 32] is quantised: it must be rows [n, k] with tb",
        ),
        ErrorCase::new(vec![of(DType::Bool, [2, 2]), f32s([2, 2])], no, "left operand is bool, it must be f32 or f16"),
    ]
}
