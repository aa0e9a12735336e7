//! The gated delta rule (Yang et al., 2024): a recurrence over the rows of each sequence, whose state is a matrix a head.

use super::case::{f32s, of};
use super::*;
use crate::base::{DType, Dim, Shape};

ops! {
    DELTA_RULE = OpDef {
        name: "delta_rule",
        doc: "The gated delta rule (Yang et al., 2024) over rows (tokens) of any number of sequences. q and k [n, g, d], v [n, h, e], h a multiple of g; \
              gates [n, h, 2]: a decay and a rate; states [s, d, h, e]; slots u32 [m]: which state each sequence begins with; owners u32 [n]: which of the \
              m sequences a row is of. All floats are f32. Each head of a sequence goes through its rows in their order with a matrix S [d, e]: \
              S ← decay · S, then S ← S + rate · k ⊗ (v − kᵀS), then y = qᵀS. Where a decay is 0 the matrix before counts for nothing, whatever it holds. \
              The result is [n + m · d, h, e]: y of every row, then the m matrices behind the last rows. Sequences without a state begin with zeros, \
              rows without a sequence give zeros. Head j of v has head j · g / h of q and k.",
        rule: check,
        shard: shard::delta_rule,
        cost: |_, t, _| t[2].shape.count() * Expr::from(t[0].shape[2]) * 8,
        body: Body::Primitive(Primitive::DeltaRule),
        grad: Grad::None("its way back needs the matrix before every row, and none is kept"),
        within: Within { abs: 3e-5, rel: 3e-5 },
        cases,
        errors,
    };
}

fn check(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    const OP: &str = "delta_rule";
    if *attrs != Attrs::None {
        return rule::wrong_attrs(OP, attrs);
    }
    rule::arity(OP, types, 7)?;
    let (q, v, states) = (&types[0], &types[2], &types[4]);
    if q.shape.rank() != 3 || v.shape.rank() != 3 || q.shape[0] != v.shape[0] {
        let what = format!("q is {} and v is {}, they must be [rows, heads, width] of the same rows", q.shape, v.shape);
        return rule::err(OP, what);
    }
    let (n, h) = (v.shape[0], v.shape[1]);
    let each = (q.shape[1].known().unwrap_or(0), h.known().unwrap_or(0));
    if each.0 == 0 || each.1 == 0 || each.1 % each.0 != 0 {
        return rule::err(OP, format!("{h} heads of values do not share {} heads of keys evenly", q.shape[1]));
    }
    let slots = states.shape.0.first().copied().unwrap_or(Dim::new(0));
    let float = |shape: Vec<Dim>| Type::f32(Shape(shape));
    let word = |shape: Vec<Dim>| Type::new(DType::U32, Shape(shape));
    let sequences = types[5].shape.0.first().copied().unwrap_or(Dim::new(0));
    let right = [
        ("q", float(q.shape.0.clone())),
        ("k", float(q.shape.0.clone())),
        ("v", float(v.shape.0.clone())),
        ("gates", float(vec![n, h, Dim::new(2)])),
        ("states", float(vec![slots, q.shape[2], h, v.shape[2]])),
        ("slots", word(vec![sequences])),
        ("owners", word(vec![n])),
    ];
    for ((name, want), have) in right.iter().zip(types) {
        if want != have {
            return rule::err(OP, format!("{name}: {have}, it must be {want}"));
        }
    }
    let (Some(width), Some(_)) = (q.shape[2].known(), v.shape[2].known()) else {
        let what = format!("keys are {} and values {} wide: these must be numbers", q.shape[2], v.shape[2]);
        return rule::err(OP, what);
    };
    Ok(rule::float_result(vec![n + sequences * width, h, v.shape[2]].into()))
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    // Rows, key heads, value heads, their widths; states, and sequences.
    let mut add = |[n, g, h, d, e]: [i64; 5], [s, m]: [i64; 2], gates: Fill| {
        // Keys of about length one, as models have them.
        let keys = Fill::Within(1.5 / (d as f32).sqrt());
        let operands = vec![
            (f32s([n, g, d]), keys),
            (f32s([n, g, d]), keys),
            (f32s([n, h, e]), Fill::Normal),
            (f32s([n, h, 2]), gates),
            (f32s([s, d, h, e]), Fill::Normal),
            // Slots and sequences that there are not, too.
            (of(DType::U32, [m]), Fill::Below(s as u32 + 1)),
            (of(DType::U32, [n]), Fill::Below(m as u32 + 1)),
        ];
        cases.push(Case::new(operands, Attrs::None));
    };
    add([1, 1, 1, 1, 1], [1, 1], Fill::Within(1.0));
    add([7, 2, 4, 8, 8], [3, 2], Fill::Within(1.0));
    // A decay of nothing.
    add([12, 3, 9, 5, 7], [2, 3], Fill::Truth);
    add([20, 2, 2, 16, 24], [4, 3], Fill::Within(0.9));
    add([5, 4, 4, 64, 40], [2, 2], Fill::Within(0.9));
    add([70, 2, 4, 128, 128], [2, 2], Fill::Within(0.9));
    // More rows than are looked through at once, of one sequence.
    add([150, 1, 2, 24, 16], [1, 1], Fill::Within(0.9));
    add([3, 1, 1, 256, 18], [2, 1], Fill::Within(1.0));
    add([0, 2, 2, 8, 8], [2, 2], Fill::Truth);
    cases
}

fn errors() -> Vec<ErrorCase> {
    let types = |g: i64, gates: i64, owners: Type| {
        let keys = f32s([3, g, 8]);
        let (states, slots) = (f32s([2, 8, 4, 6]), of(DType::U32, [2]));
        vec![keys.clone(), keys, f32s([3, 4, 6]), f32s([3, 4, gates]), states, slots, owners]
    };
    let owners = of(DType::U32, [3]);
    vec![
        ErrorCase::new(
            types(3, 2, owners.clone()),
            Attrs::None,
            "4 heads of values do not share 3 heads of keys evenly",
        ),
        ErrorCase::new(types(2, 1, owners), Attrs::None, "gates: f32[3, 4, 1], it must be f32[3, 4, 2]"),
        ErrorCase::new(types(2, 2, f32s([3])), Attrs::None, "owners: f32[3], it must be u32[3]"),
    ]
}
