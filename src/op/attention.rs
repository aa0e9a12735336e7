//! Rotary positions and scaled-dot-product attention: composites.

use super::build::{Build, Value};
use super::case::{f32s, normal, of};
use super::*;
use crate::base::{DType, Dim, Shape};

ops! {
    ROPE = OpDef {
        name: "rope",
        doc: "Rotary positions (Su et al., 2021): each pair (u, v) of x [..., s, h, d] becomes (u·cos − v·sin, u·sin + v·cos), \
              cos and sin [s, d/2]. Pairs are halves apart (`Half`) or neighbours (`Interleaved`).",
        rule: rope_rule,
        shard: shard::none,
        cost: |a, t, o| rule::one_per_element(a, t, o) * 3,
        body: Body::Composite { define: rope, fused: Fused::Parts },
        grad: Grad::Definition,
        within: Within { abs: 2e-6, rel: 1e-6 },
        cases: || {
            let mut cases = vec![];
            for layout in [RopeLayout::Half, RopeLayout::Interleaved] {
                cases.push(Case::new(vec![normal([3, 2, 8]), normal([3, 4]), normal([3, 4])], Attrs::Rope(layout)));
                cases.push(Case::new(vec![normal([2, 17, 3, 64]), normal([17, 32]), normal([17, 32])], Attrs::Rope(layout)));
                cases.push(Case::new(vec![normal([1, 1, 2]), normal([1, 1]), normal([1, 1])], Attrs::Rope(layout)));
            }
            cases
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 2, 7]), f32s([3, 3]), f32s([3, 3])], Attrs::Rope(RopeLayout::Half), "heads are 7 wide, the width must be even"),
            ErrorCase::new(vec![f32s([3, 2, 8]), f32s([3, 4]), f32s([2, 4])], Attrs::Rope(RopeLayout::Half), "sin is [2, 4], it must be [3, 4]"),
            ErrorCase::new(vec![f32s([8]), f32s([3, 4]), f32s([3, 4])], Attrs::Rope(RopeLayout::Half), "x is [8], it must be [..., s, h, d]"),
        ],
    };
    ATTENTION = OpDef {
        name: "attention",
        doc: "softmax(q·kᵀ · scale + mask) · v for each head (Vaswani et al., 2017). q [b, s, h, d]; k and v [b, t, g, d] with h a multiple \
              of g (grouped heads); the optional mask broadcasts to [b, h, s, t]: f32 is added, bool keeps where true. \
              `causal` hides keys after `past + s`, `window` those before `past + s − window + 1`. A query that sees no key, or none but with a mask of −∞, gives zeros. \
              `softcap` bends scores to cap · tanh(score / cap) before masks. With `sinks` the fourth operand, in place of a mask, \
              is f32 [h]: a score of each head that adds to the sum below and nothing above.",
        rule: |attrs, types| attention_rule("attention", attrs, types),
        shard: shard::attention,
        cost: |_, t, _| {
            let (q, k) = (&t[0].shape, &t[1].shape);
            q.count() * Expr::from(k[1]) * 4
        },
        body: Body::Composite { define: attention, fused: Fused::Attention },
        grad: Grad::Definition,
        within: Within { abs: 2e-5, rel: 2e-5 },
        cases: || {
            // A window behind all keys, too: such a row of zeros is no part that could be merged.
            let mut unseen = Case::new(vec![normal([1, 2, 2, 8]), normal([1, 3, 1, 8]), normal([1, 3, 1, 8])], Attrs::None);
            unseen.attrs = Attrs::Attention(Attention { causal: Some(5.into()), window: Some(2), ..Attention::scaled(0.35) });
            [attention_cases(), vec![unseen]].concat()
        },
        errors: attention_errors,
    };
    ATTENTION_PART = OpDef {
        name: "attention_part",
        doc: "Attention over some of the keys, to be merged with parts over others (as in ring attention: Liu et al., 2023): \
              [b, s, h, d + 1], the last element ln Σ exp(score), which weighs the part. A query that sees no key gets a weight \
              of nothing. Operands and attributes as of `attention`.",
        rule: |attrs, types| {
            let mut ty = attention_rule("attention_part", attrs, types)?;
            if matches!(attrs, Attrs::Attention(a) if a.sinks) {
                return rule::err("attention_part", "sinks belong to whole attention");
            }
            ty.shape.0[3] = ty.shape[3] + Dim::new(1);
            Ok(ty)
        },
        shard: shard::attention,
        cost: |a, t, o| (ATTENTION.cost)(a, t, o),
        body: Body::Composite { define: attention_part, fused: Fused::Parts },
        grad: Grad::Definition,
        within: Within { abs: 2e-5, rel: 2e-5 },
        cases: part_cases,
        errors: || attention_errors().into_iter().filter(|e| e.types.len() == 3).collect(),
    };
}

fn rope_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("rope", types, 3)?;
    let Attrs::Rope(_) = attrs else { return rule::wrong_attrs("rope", attrs) };
    let x = &types[0];
    rule::real("rope", "x", x)?;
    let rank = x.shape.rank();
    if rank < 3 {
        return rule::err("rope", format!("x is {}, it must be [..., s, h, d]", x.shape));
    }
    let width = x.shape[rank - 1];
    let Some(half) = width.div_exact(2) else {
        return rule::err("rope", format!("heads are {width} wide, the width must be even"));
    };
    let want = Shape(vec![x.shape[rank - 3], half]);
    for (ty, name) in types[1..].iter().zip(["cos", "sin"]) {
        rule::real("rope", name, ty)?;
        if ty.shape != want {
            return rule::err("rope", format!("{name} is {}, it must be {want}", ty.shape));
        }
    }
    Ok(rule::float_result(x.shape.clone()))
}

fn rope(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let shape = b.shape(args[0]);
    let axis = shape.rank() - 1;
    let half = shape[axis].div_exact(2).unwrap_or(Dim::new(0));
    let interleaved = *attrs == Attrs::Rope(RopeLayout::Interleaved);
    // Interleaved pairs are a last axis of 2; halves are two slices.
    let (mut x, mut pair) = (args[0], axis);
    let mut part = half;
    if interleaved {
        let mut split = shape.clone();
        split.0[axis] = half;
        split.0.push(Dim::new(2));
        (x, pair, part) = (b.reshape(args[0], split)?, axis + 1, Dim::new(1));
    }
    let u = b.slice(x, pair, 0, part)?;
    let v = b.slice(x, pair, part, part)?;
    let mut angle_shape = vec![shape[axis - 2], Dim::new(1), half];
    angle_shape.extend(interleaved.then(|| Dim::new(1)));
    let cos = b.reshape(args[1], angle_shape.clone())?;
    let sin = b.reshape(args[2], angle_shape)?;
    let (uc, us) = (b.binary(&MUL, u, cos)?, b.binary(&MUL, u, sin)?);
    let (vc, vs) = (b.binary(&MUL, v, cos)?, b.binary(&MUL, v, sin)?);
    let (first, second) = (b.binary(&SUB, uc, vs)?, b.binary(&ADD, us, vc)?);
    let y = b.concat(&[first, second], pair)?;
    b.reshape(y, shape)
}

fn attention_rule(op: &str, attrs: &Attrs, types: &[Type]) -> Result<Type> {
    if types.len() != 4 {
        rule::arity(op, types, 3)?;
    }
    let Attrs::Attention(a) = attrs else { return rule::wrong_attrs(op, attrs) };
    let (q, k, v) = (&types[0], &types[1], &types[2]);
    for (ty, name) in [(q, "q"), (k, "k"), (v, "v")] {
        rule::real(op, name, ty)?;
        if ty.shape.rank() != 4 {
            return rule::err(op, format!("{name} is {}, it must be [batch, sequence, heads, width]", ty.shape));
        }
    }
    if k.shape != v.shape {
        return rule::err(op, format!("k is {} and v is {}, they must be alike", k.shape, v.shape));
    }
    if q.shape[0] != k.shape[0] || q.shape[3] != k.shape[3] {
        return rule::err(op, format!("q is {} and k is {}: batch and width must be the same", q.shape, k.shape));
    }
    let (h, g) = (q.shape[2].known().unwrap_or(0), k.shape[2].known().unwrap_or(0));
    if h == 0 || g == 0 || h % g != 0 {
        return rule::err(op, format!("{} query heads do not share {} key heads evenly", q.shape[2], k.shape[2]));
    }
    if a.window == Some(0) || (a.window.is_some() && a.causal.is_none()) {
        return rule::err(op, format!("a window of {:?} needs causal attention and one key or more", a.window));
    }
    if a.softcap.is_some_and(|c| c.is_nan() || c <= 0.0) {
        return rule::err(op, format!("a cap of {:?} must be above 0", a.softcap.unwrap_or_default()));
    }
    if a.sinks {
        return match types.get(3) {
            Some(s) if s.dtype == DType::F32 && s.shape.0 == [q.shape[2]] => Ok(rule::float_result(q.shape.clone())),
            other => {
                let got = other.map_or("missing".to_string(), Type::to_string);
                rule::err(op, format!("sinks are {got}, they must be f32[{}]", q.shape[2]))
            }
        };
    }
    if let Some(mask) = types.get(3) {
        let full = Shape(vec![q.shape[0], q.shape[2], q.shape[1], k.shape[1]]);
        if !matches!(mask.dtype, DType::F32 | DType::Bool) {
            return rule::err(op, format!("mask is {}, it must be f32 or bool", mask.dtype));
        }
        if mask.shape.broadcast(&full).as_ref() != Some(&full) {
            return rule::err(op, format!("mask {} does not broadcast to {full}", mask.shape));
        }
    }
    Ok(rule::float_result(q.shape.clone()))
}

/// What no score can be below: hidden keys have it.
pub(super) const HIDDEN: f32 = -f32::MAX;

/// Products of queries and keys, scaled and bent.
pub(super) fn scaled(b: &mut dyn Build, products: Value, a: &Attention) -> Result<Value> {
    let scores = b.mul_const(products, a.scale)?;
    let Some(cap) = a.softcap else { return Ok(scores) };
    let part = b.mul_const(scores, 1.0 / cap)?;
    let bent = b.unary(&TANH, part)?;
    b.mul_const(bent, cap)
}

/// Scores with masks, `[b, g, h/g, s, t]`, and values as `[b, g, 1, t, d]`.
fn scores(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<(Value, Value)> {
    let Attrs::Attention(a) = attrs else { return rule::wrong_attrs("attention", attrs) };
    let (qs, ks) = (b.shape(args[0]), b.shape(args[1]));
    let (batch, s, h, d, t, g) = (qs[0], qs[1], qs[2], qs[3], ks[1], ks[2]);
    let each = h.known().unwrap_or(1) / g.known().unwrap_or(1);
    let q = b.reshape(args[0], vec![batch, s, g, each.into(), d])?;
    let q = b.transpose(q, &[0, 2, 3, 1, 4])?;
    let grouped = |b: &mut dyn Build, x: Value| {
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        b.reshape(x, vec![batch, g, Dim::new(1), t, d])
    };
    let (k, v) = (grouped(b, args[1])?, grouped(b, args[2])?);
    let scores = b.apply(&MATMUL, Attrs::Matmul { ta: false, tb: true }, &[q, k])?;
    let mut scores = scaled(b, scores, a)?;
    if let Some(&mask) = args.get(3).filter(|_| !a.sinks) {
        let ty = b.ty(mask);
        let mask = b.broadcast(mask, vec![batch, h, s, t])?;
        let mask = b.reshape(mask, vec![batch, g, each.into(), s, t])?;
        scores = if ty.dtype == DType::Bool {
            let low = b.constant(HIDDEN);
            b.apply(&WHERE, Attrs::None, &[mask, scores, low])?
        } else {
            b.binary(&ADD, scores, mask)?
        };
    }
    if let Some(past) = a.causal {
        let shape = Shape(vec![s, t]);
        let at = b.iota(shape.clone(), 0, past)?;
        let key = b.iota(shape.clone(), 1, Dim::new(0))?;
        let low = b.constant(HIDDEN);
        let sees = b.binary(&LE, key, at)?;
        scores = b.apply(&WHERE, Attrs::None, &[sees, scores, low])?;
        if let Some(window) = a.window {
            let newest_hidden = b.iota(shape, 0, past - Dim::from(window))?;
            let sees = b.binary(&GT, key, newest_hidden)?;
            scores = b.apply(&WHERE, Attrs::None, &[sees, scores, low])?;
        }
    }
    Ok((scores, v))
}

/// The definition, written plainly: scores, masks, softmax, weighted sum.
fn attention(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let (scores, v) = scores(b, attrs, args)?;
    let sinks = args.get(3).filter(|_| matches!(attrs, Attrs::Attention(a) if a.sinks));
    let y = weighted(b, scores, v, sinks.copied())?;
    let y = b.transpose(y, &[0, 3, 1, 2, 4])?;
    let shape = b.shape(args[0]);
    b.reshape(y, shape)
}

/// Values weighted by the softmax of their scores; zeros where nothing is seen.
pub(super) fn weighted(b: &mut dyn Build, scores: Value, v: Value, sinks: Option<Value>) -> Result<Value> {
    let weights = match sinks {
        None => b.apply(&SOFTMAX, Attrs::None, &[scores])?,
        Some(sinks) => with_sinks(b, scores, sinks)?,
    };
    // Where nothing is seen all scores are alike: such weights are dropped.
    let most = b.reduce_last(&MAX, scores)?;
    let (low, zero) = (b.constant(HIDDEN), b.constant(0.0));
    let sees = b.binary(&GT, most, low)?;
    let weights = b.apply(&WHERE, Attrs::None, &[sees, weights, zero])?;
    b.apply(&MATMUL, Attrs::Matmul { ta: false, tb: false }, &[weights, v])
}

/// The softmax of scores `[b, g, h/g, s, t]` beside one more score a head, whose own share is left out.
fn with_sinks(b: &mut dyn Build, scores: Value, sinks: Value) -> Result<Value> {
    let shape = b.shape(scores);
    let one = Dim::new(1);
    let sinks = b.reshape(sinks, vec![one, shape[1], shape[2], one, one])?;
    let most = b.reduce_last(&MAX, scores)?;
    let most = b.binary(&MAXIMUM, most, sinks)?;
    let less = b.binary(&SUB, scores, most)?;
    let e = b.unary(&EXP, less)?;
    let sum = b.reduce_last(&SUM, e)?;
    let less = b.binary(&SUB, sinks, most)?;
    let own = b.unary(&EXP, less)?;
    let sum = b.binary(&ADD, sum, own)?;
    b.binary(&DIV, e, sum)
}

fn attention_part(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let (scores, v) = scores(b, attrs, args)?;
    // One more key that nobody sees, so that there is one where a rank has none.
    let scores = b.apply(&PAD, Attrs::Pad { axis: 4, before: 0, after: 1, value: HIDDEN }, &[scores])?;
    let v = b.apply(&PAD, Attrs::Pad { axis: 3, before: 0, after: 1, value: 0.0 }, &[v])?;
    let most = b.reduce_last(&MAX, scores)?;
    let less = b.binary(&SUB, scores, most)?;
    let e = b.unary(&EXP, less)?;
    let sum = b.reduce_last(&SUM, e)?;
    let y = b.apply(&MATMUL, Attrs::Matmul { ta: false, tb: false }, &[e, v])?;
    let y = b.binary(&DIV, y, sum)?;
    let log = b.unary(&LOG, sum)?;
    let log = b.binary(&ADD, most, log)?;
    let y = b.concat(&[y, log], 4)?;
    let y = b.transpose(y, &[0, 3, 1, 2, 4])?;
    let mut shape = b.shape(args[0]);
    shape.0[3] = shape[3] + Dim::new(1);
    b.reshape(y, shape)
}

fn attention_cases() -> Vec<Case> {
    let mut cases = vec![];
    let mut add = |q: [i64; 4], t: i64, g: i64, past: Option<i64>, window, mask: Option<Type>| {
        let kv = normal([q[0], t, g, q[3]]);
        let mut operands = vec![normal(q), kv.clone(), kv];
        operands.extend(mask.map(|m| (m, Fill::Normal)));
        let scale = 1.0 / (q[3] as f32).sqrt();
        let attrs = Attrs::Attention(Attention { causal: past.map(Dim::from), window, ..Attention::scaled(scale) });
        cases.push(Case::new(operands, attrs));
    };
    add([1, 1, 1, 1], 1, 1, None, None, None);
    add([2, 3, 2, 8], 5, 2, None, None, None);
    add([1, 17, 4, 16], 17, 2, Some(0), None, None);
    add([1, 1, 9, 64], 129, 3, Some(128), None, None);
    add([1, 5, 6, 12], 17, 3, Some(12), Some(4), None);
    add([1, 3, 2, 5], 7, 1, Some(4), None, None);
    add([2, 4, 4, 32], 9, 4, None, None, Some(f32s([2, 1, 1, 9])));
    add([1, 4, 2, 8], 4, 2, None, None, Some(f32s([4, 4])));
    add([1, 40, 3, 64], 40, 1, Some(0), None, None);
    // Enough keys to go in parts.
    add([1, 1, 4, 36], 300, 2, Some(299), None, None);
    // A boolean mask that leaves some key visible in every row: it is true wherever it is ones.
    let truth = (of(DType::Bool, [1, 1, 1, 6]), Fill::Below(1));
    let mut seen =
        Case::new(vec![normal([1, 3, 2, 8]), normal([1, 6, 2, 8]), normal([1, 6, 2, 8]), truth], Attrs::None);
    seen.attrs = Attrs::Attention(Attention::scaled(0.5));
    seen.operands[3].1 = Fill::Truth;
    cases.push(seen);
    // Caps that bend most scores; a score beside the keys for each head.
    for (q, t, g, past, window) in
        [([1, 1, 8, 64], 130, 2, 129, None), ([1, 6, 4, 16], 9, 2, 3, Some(3)), ([2, 3, 6, 10], 5, 3, 2, None)]
    {
        let kv = normal([q[0], t, g, q[3]]);
        let how = Attention { causal: Some(Dim::from(past)), window, ..Attention::scaled(0.4) };
        let operands = vec![normal(q), kv.clone(), kv];
        cases.push(Case::new(operands.clone(), Attrs::Attention(Attention { softcap: Some(0.75), ..how })));
        let sinks = [operands, vec![normal([q[2]])]].concat();
        cases.push(Case::new(sinks.clone(), Attrs::Attention(Attention { sinks: true, ..how })));
        cases.push(Case::new(sinks, Attrs::Attention(Attention { sinks: true, softcap: Some(1.5), ..how })));
    }
    cases
}

/// Those that can be cut by positions: without masks and sinks.
fn part_cases() -> Vec<Case> {
    let plain = |c: &Case| !matches!(&c.attrs, Attrs::Attention(a) if a.sinks);
    attention_cases().into_iter().filter(plain).collect()
}

fn attention_errors() -> Vec<ErrorCase> {
    let plain = Attrs::Attention(Attention::scaled(1.0));
    let windowed = Attrs::Attention(Attention { window: Some(4), ..Attention::scaled(1.0) });
    let capped = Attrs::Attention(Attention { softcap: Some(-1.0), ..Attention::scaled(1.0) });
    let sunk = Attrs::Attention(Attention { sinks: true, ..Attention::scaled(1.0) });
    let (q, k) = (f32s([1, 2, 4, 8]), f32s([1, 5, 4, 8]));
    vec![
        ErrorCase::new(
            vec![q.clone(), f32s([1, 5, 3, 8]), f32s([1, 5, 3, 8])],
            plain.clone(),
            "4 query heads do not share 3 key heads evenly",
        ),
        ErrorCase::new(
            vec![q.clone(), k.clone(), f32s([1, 6, 4, 8])],
            plain.clone(),
            "k is [1, 5, 4, 8] and v is [1, 6, 4, 8], they must be alike",
        ),
        ErrorCase::new(
            vec![q.clone(), f32s([1, 5, 4, 9]), f32s([1, 5, 4, 9])],
            plain.clone(),
            "q is [1, 2, 4, 8] and k is [1, 5, 4, 9]: batch and width must be the same",
        ),
        ErrorCase::new(
            vec![q.clone(), k.clone(), k.clone(), f32s([3, 5])],
            plain,
            "mask [3, 5] does not broadcast to [1, 4, 2, 5]",
        ),
        ErrorCase::new(vec![q.clone(), k.clone(), k.clone()], capped, "a cap of -1.0 must be above 0"),
        ErrorCase::new(vec![q.clone(), k.clone(), k.clone(), f32s([3])], sunk, "sinks are f32[3], they must be f32[4]"),
        ErrorCase::new(
            vec![q, k.clone(), k],
            windowed,
            "a window of Some(4) needs causal attention and one key or more",
        ),
    ]
}
