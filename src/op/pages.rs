//! Attention of rows of many sequences to keys and values in pages (Kwon et al., 2023): a composite.

use super::attention::{HIDDEN, scaled, weighted};
use super::build::{Build, Value};
use super::case::{f32s, normal, of};
use super::*;
use crate::base::{DType, Dim, Shape};

ops! {
    PAGED_ATTENTION = OpDef {
        name: "paged_attention",
        doc: "Attention of rows (tokens) of any number of sequences to the keys before them, which lie in pages of a pool. q [n, h, d]; k and v \
              [pages · page, g, d], h a multiple of g; tables u32 [sequences, m]: the pages of each sequence in order, entries beyond the pool stand for \
              its last page; sequences and positions u32 [n]: of which sequence a row is, and where in it. Row i sees key t ≤ positions[i] of its \
              sequence, which is row tables[sequences[i], t / page] · page + t mod page of the pool; with a `window` only the newest so many; none \
              beyond the table. A row of a sequence that there is not, or that sees no key, gives zeros. Scale, `softcap` and `sinks` (the last operand, \
              f32 [h]) as of `attention`.",
        rule: check,
        shard: shard::paged_attention,
        cost: |attrs, t, _| {
            let page = if let Attrs::Pages { page, .. } = attrs { *page as i64 } else { 1 };
            t[0].shape.count() * Expr::from(t[3].shape[1]) * (4 * page)
        },
        body: Body::Composite { define, fused: Fused::PagedAttention },
        grad: Grad::Definition,
        within: Within { abs: 2e-5, rel: 2e-5 },
        cases,
        errors,
    };
}

fn check(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    const OP: &str = "paged_attention";
    let Attrs::Pages { how, page } = attrs else { return rule::wrong_attrs(OP, attrs) };
    rule::arity(OP, types, if how.sinks { 7 } else { 6 })?;
    let (q, k, v, tables) = (&types[0], &types[1], &types[2], &types[3]);
    rule::real(OP, "q", q)?;
    for (ty, name) in [(q, "q"), (k, "k"), (v, "v")] {
        if !ty.dtype.is_float() {
            return rule::err(OP, format!("{name} is {}, it must be of floats", ty.dtype));
        }
        if ty.shape.rank() != 3 {
            return rule::err(OP, format!("{name} is {}, it must be [rows, heads, width]", ty.shape));
        }
    }
    if k.dtype.is_quantised() != v.dtype.is_quantised() {
        return rule::err(OP, format!("k is {} and v is {}: both must be in blocks, or neither", k.dtype, v.dtype));
    }
    if k.shape != v.shape {
        return rule::err(OP, format!("k is {} and v is {}, they must be alike", k.shape, v.shape));
    }
    if q.shape[2] != k.shape[2] {
        return rule::err(OP, format!("q is {} and k is {}: the width must be the same", q.shape, k.shape));
    }
    let (h, g) = (q.shape[1].known().unwrap_or(0), k.shape[1].known().unwrap_or(0));
    if h == 0 || g == 0 || h % g != 0 {
        return rule::err(OP, format!("{} query heads do not share {} key heads evenly", q.shape[1], k.shape[1]));
    }
    let rows = k.shape[0].known().unwrap_or(0);
    if *page == 0 || rows < *page as i64 || rows % *page as i64 != 0 {
        return rule::err(OP, format!("a pool of {} rows does not consist of pages of {page}", k.shape[0]));
    }
    if tables.dtype != DType::U32 || tables.shape.rank() != 2 || tables.shape.known().is_none() {
        return rule::err(OP, format!("tables are {tables}, they must be u32[sequences, pages]"));
    }
    for (ty, name) in types[4..6].iter().zip(["sequences", "positions"]) {
        if ty.dtype != DType::U32 || ty.shape.0 != [q.shape[0]] {
            return rule::err(OP, format!("{name} are {ty}, they must be u32[{}]", q.shape[0]));
        }
    }
    if how.causal.is_some() || how.window == Some(0) {
        return rule::err(OP, "rows see keys up to their positions: no other past, and a window of one key or more");
    }
    if how.softcap.is_some_and(|c| c.is_nan() || c <= 0.0) {
        return rule::err(OP, format!("a cap of {:?} must be above 0", how.softcap.unwrap_or_default()));
    }
    if let Some(s) = types.get(6).filter(|s| s.dtype != DType::F32 || s.shape.0 != [q.shape[1]]) {
        return rule::err(OP, format!("sinks are {s}, they must be f32[{}]", q.shape[1]));
    }
    Ok(rule::float_result(q.shape.clone()))
}

fn cast(b: &mut dyn Build, x: Value, to: DType) -> Result<Value> {
    b.apply(&CAST, Attrs::Cast(to), &[x])
}

/// The keys of each row in order: their rows of the pool, `[n, t]`.
fn places(b: &mut dyn Build, page: u32, (k, tables, sequences): (Value, Value, Value)) -> Result<Value> {
    let (pool, per, n) = (b.shape(k)[0], b.shape(tables)[1], b.shape(sequences)[0]);
    // Tables of gathers are of floats, which hold numbers of pages exactly.
    let tables = cast(b, tables, DType::F32)?;
    let own = b.apply(&GATHER, Attrs::None, &[tables, sequences])?;
    let last = b.constant((pool.known().unwrap_or(0) / page as i64 - 1) as f32);
    let own = b.binary(&MINIMUM, own, last)?;
    let own = cast(b, own, DType::I32)?;
    let own = b.reshape(own, vec![n, per, Dim::new(1)])?;
    let size = b.iota([1].into(), 0, Dim::from(page))?;
    let first = b.binary(&MUL, own, size)?;
    let within = b.iota([1, 1, page as i64].into(), 2, Dim::new(0))?;
    let at = b.binary(&ADD, first, within)?;
    b.reshape(at, vec![n, Dim::new(per.known().unwrap_or(0) * page as i64)])
}

/// Whether each row sees each key: 1 or 0, `[n, t]`.
fn seen(b: &mut dyn Build, how: &Attention, t: Dim, args: &[Value]) -> Result<Value> {
    let (n, all) = (b.shape(args[0])[0], b.shape(args[3])[0]);
    let column = |b: &mut dyn Build, x: Value| {
        let x = cast(b, x, DType::F32)?;
        b.reshape(x, vec![n, Dim::new(1)])
    };
    let (sequence, position) = (column(b, args[4])?, column(b, args[5])?);
    let attrs = Attrs::Iota { shape: Shape(vec![Dim::new(1), t]), axis: 1, start: Dim::new(0), dtype: DType::F32 };
    let key = b.apply(&IOTA, attrs, &[])?;
    let (one, zero) = (b.constant(1.0), b.constant(0.0));
    let number = |b: &mut dyn Build, sees: Value| b.apply(&WHERE, Attrs::None, &[sees, one, zero]);
    let before = b.binary(&LE, key, position)?;
    let before = number(b, before)?;
    let all = b.constant(all.known().unwrap_or(0) as f32);
    let exists = b.binary(&LT, sequence, all)?;
    let exists = number(b, exists)?;
    let mut seen = b.binary(&MUL, before, exists)?;
    if let Some(window) = how.window {
        let hidden = b.add_const(position, -(window as f32))?;
        let fresh = b.binary(&GT, key, hidden)?;
        let fresh = number(b, fresh)?;
        seen = b.binary(&MUL, seen, fresh)?;
    }
    Ok(seen)
}

/// The definition, written plainly: keys and values of each row side by side, scores, softmax, weighted sum.
fn define(b: &mut dyn Build, attrs: &Attrs, args: &[Value]) -> Result<Value> {
    let Attrs::Pages { how, page } = attrs else { return rule::wrong_attrs("paged_attention", attrs) };
    let (qs, g) = (b.shape(args[0]), b.shape(args[1])[1]);
    let (n, h, d, one) = (qs[0], qs[1], qs[2], Dim::new(1));
    let each = Dim::new(h.known().unwrap_or(1) / g.known().unwrap_or(1));
    let places = places(b, *page, (args[1], args[3], args[4]))?;
    let t = b.shape(places)[1];
    let seen = seen(b, how, t, args)?;
    let (low, zero) = (b.constant(HIDDEN), b.constant(0.0));
    let laid = |b: &mut dyn Build, pool: Value| {
        let x = b.apply(&GATHER, Attrs::None, &[pool, places])?;
        // What is not seen may hold anything: it counts for nothing.
        let own = b.reshape(seen, vec![n, t, one, one])?;
        let own = b.binary(&GT, own, zero)?;
        let x = b.apply(&WHERE, Attrs::None, &[own, x, zero])?;
        let x = b.transpose(x, &[0, 2, 1, 3])?;
        b.reshape(x, vec![n, g, one, t, d])
    };
    let (k, v) = (laid(b, args[1])?, laid(b, args[2])?);
    let q = b.reshape(args[0], vec![n, g, each, one, d])?;
    let products = b.apply(&MATMUL, Attrs::Matmul { ta: false, tb: true }, &[q, k])?;
    let scores = scaled(b, products, how)?;
    let own = b.reshape(seen, vec![n, one, one, one, t])?;
    let own = b.binary(&GT, own, zero)?;
    let scores = b.apply(&WHERE, Attrs::None, &[own, scores, low])?;
    let y = weighted(b, scores, v, args.get(6).copied())?;
    b.reshape(y, qs)
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    // Rows, heads, key heads, width; pages of the pool and keys of one; sequences and pages of each.
    let mut add = |[n, h, g, d]: [i64; 4], [pages, page]: [i64; 2], [all, per]: [i64; 2], how: Attention| {
        let pool = normal([pages * page, g, d]);
        let mut operands = vec![
            normal([n, h, d]),
            pool.clone(),
            pool,
            // Entries, sequences and positions that there are not, too.
            (of(DType::U32, [all, per]), Fill::Below(pages as u32 + 1)),
            (of(DType::U32, [n]), Fill::Below(all as u32 + 1)),
            (of(DType::U32, [n]), Fill::Below((per * page + 2) as u32)),
        ];
        operands.extend(how.sinks.then(|| normal([h])));
        cases.push(Case::new(operands, Attrs::Pages { how, page: page as u32 }));
    };
    let plain = Attention::scaled(0.35);
    add([1, 1, 1, 1], [1, 1], [1, 1], plain);
    add([3, 4, 2, 8], [5, 4], [2, 3], plain);
    add([9, 9, 3, 64], [4, 16], [3, 4], plain);
    add([5, 2, 1, 5], [3, 7], [2, 2], plain);
    add([17, 4, 2, 16], [6, 16], [1, 5], Attention { window: Some(20), ..plain });
    add([6, 4, 2, 12], [3, 5], [4, 3], Attention { window: Some(3), softcap: Some(0.75), ..plain });
    add([7, 6, 2, 32], [5, 32], [2, 3], Attention { sinks: true, ..plain });
    add([4, 4, 4, 16], [20, 16], [2, 20], Attention { sinks: true, softcap: Some(1.5), window: Some(300), ..plain });
    cases
}

fn errors() -> Vec<ErrorCase> {
    let ids = |n| of(DType::U32, [n]);
    let types = |q: Type, k: Type, tables: Type, positions: Type| vec![q, k.clone(), k, tables, ids(2), positions];
    let (q, k, tables) = (f32s([2, 4, 8]), f32s([12, 2, 8]), of(DType::U32, [3, 2]));
    let with = |how: Attention, page: u32| Attrs::Pages { how, page };
    let plain = Attention::scaled(1.0);
    vec![
        ErrorCase::new(
            types(q.clone(), k.clone(), tables.clone(), ids(2)),
            with(plain, 5),
            "a pool of 12 rows does not consist of pages of 5",
        ),
        ErrorCase::new(
            types(q.clone(), f32s([12, 3, 8]), tables.clone(), ids(2)),
            with(plain, 4),
            "4 query heads do not share 3 key heads evenly",
        ),
        ErrorCase::new(
            types(q.clone(), f32s([12, 2, 6]), tables.clone(), ids(2)),
            with(plain, 4),
            "q is [2, 4, 8] and k is [12, 2, 6]: the width must be the same",
        ),
        ErrorCase::new(
            types(q.clone(), k.clone(), f32s([3, 2]), ids(2)),
            with(plain, 4),
            "tables are f32[3, 2], they must be u32[sequences, pages]",
        ),
        ErrorCase::new(
            types(q.clone(), k.clone(), tables.clone(), ids(3)),
            with(plain, 4),
            "positions are u32[3], they must be u32[2]",
        ),
        ErrorCase::new(
            types(q.clone(), k.clone(), tables.clone(), ids(2)),
            with(Attention { causal: Some(0.into()), ..plain }, 4),
            "rows see keys up to their positions: no other past, and a window of one key or more",
        ),
        ErrorCase::new(
            types(q, k, tables, ids(2)),
            with(Attention { softcap: Some(0.0), ..plain }, 4),
            "a cap of 0.0 must be above 0",
        ),
    ]
}
