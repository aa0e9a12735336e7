//! Products with some of the rows of a weight, chosen by each token: experts.

use super::build::{Build, Value};
use super::case::{f32s, normal, of};
use super::*;
use crate::base::{DType, Dim};

ops! {
    EXPERT_MATMUL = OpDef {
        name: "expert_matmul",
        doc: "Products with chosen rows of a weight, as experts have them: y[i, t, j] = Σ_c x[i, t, c] · w[first[i, t] + j, c]. x is [n, t, k] or \
              [n, 1, k], w [rows, k] of any float type, first u32 or i32 [n, t], y [n, t, `rows`]. Rows outside of the weight are zeros. Only \
              the chosen rows are read.",
        rule: expert_rule,
        shard: shard::expert_matmul,
        cost: |_, t, o| o.shape.count() * Expr::from(t[0].shape[2]) * 2,
        body: Body::Composite { define: expert_matmul, fused: Fused::ExpertMatmul },
        grad: Grad::None("the rows of weights are chosen by number"),
        within: Within { abs: 2e-5, rel: 2e-5 },
        cases: || {
            let first = |n: i64, t: i64| (of(DType::U32, [n, t]), Fill::Below(7));
            let case = |x: [i64; 3], w: (Type, Fill), t: i64, rows: i64| {
                Case::new(vec![normal(x), w, first(x[0], t)], Attrs::Rows(rows.into()))
            };
            let mut cases = vec![
                case([1, 1, 1], normal([7, 1]), 1, 1),
                case([3, 1, 17], normal([12, 17]), 2, 5),
                case([2, 3, 12], normal([11, 12]), 3, 4),
                // Rows that reach past the weight.
                case([5, 2, 8], normal([8, 8]), 2, 3),
                case([0, 1, 8], normal([8, 8]), 2, 3),
            ];
            for dtype in DType::weights().filter(|d| *d != DType::F32) {
                let k = 64_usize.next_multiple_of(dtype.block()) as i64;
                cases.push(case([3, 1, k], (of(dtype, [23, k]), Fill::Normal), 2, 16));
            }
            cases
        },
        errors: || vec![
            ErrorCase::new(
                vec![f32s([3, 2, 8]), f32s([9, 8]), of(DType::U32, [3, 4])],
                Attrs::Rows(2.into()),
                "x is [3, 2, 8], it must be [3, 4, 8] or [3, 1, 8]",
            ),
            ErrorCase::new(
                vec![f32s([3, 1, 8]), f32s([9, 7]), of(DType::U32, [3, 4])],
                Attrs::Rows(2.into()),
                "the weight is [9, 7], it must be [rows, 8]",
            ),
            ErrorCase::new(
                vec![f32s([3, 1, 8]), f32s([9, 8]), f32s([3, 4])],
                Attrs::Rows(2.into()),
                "first rows are f32[3, 4], they must be u32 or i32 of two axes",
            ),
        ],
    };
}

fn expert_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let op = "expert_matmul";
    rule::arity(op, types, 3)?;
    let Attrs::Rows(rows) = *attrs else { return rule::wrong_attrs(op, attrs) };
    let (x, w, first) = (&types[0], &types[1], &types[2]);
    rule::real(op, "x", x)?;
    if !first.dtype.is_int() || first.shape.rank() != 2 {
        return rule::err(op, format!("first rows are {first}, they must be u32 or i32 of two axes"));
    }
    let (n, t) = (first.shape[0], first.shape[1]);
    if x.shape.rank() != 3 || x.shape[0] != n || (x.shape[1] != t && !x.shape[1].is(1)) {
        let k = x.shape.last().copied().unwrap_or(Dim::new(1));
        return rule::err(op, format!("x is {}, it must be [{n}, {t}, {k}] or [{n}, 1, {k}]", x.shape));
    }
    if !w.dtype.is_float() || w.shape.rank() != 2 || w.shape[1] != x.shape[2] {
        return rule::err(op, format!("the weight is {}, it must be [rows, {}]", w.shape, x.shape[2]));
    }
    Ok(rule::float_result(vec![n, t, rows].into()))
}

fn expert_matmul(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let Attrs::Rows(rows) = *attrs else { return rule::wrong_attrs("expert_matmul", attrs) };
    let (x, first) = (b.shape(args[0]), b.shape(args[2]));
    let one = Dim::new(1);
    let at = b.apply(&CAST, Attrs::Cast(DType::I32), &[args[2]])?;
    let at = b.reshape(at, vec![first[0], first[1], one])?;
    let step = b.iota(vec![one, one, rows].into(), 2, Dim::new(0))?;
    let at = b.binary(&ADD, at, step)?;
    let w = b.apply(&GATHER, Attrs::None, &[args[1], at])?;
    let x = b.reshape(args[0], vec![x[0], x[1], x[2], one])?;
    let y = b.apply(&MATMUL, Attrs::Matmul { ta: false, tb: false }, &[w, x])?;
    b.reshape(y, vec![first[0], first[1], rows])
}
