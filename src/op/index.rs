//! Ops that move elements by index: gather, scatter_add, concat, pad, append, assign, cast, iota.

use super::case::{f32s, normal, of};
use super::*;
use crate::base::{DType, Dim, Shape, TYPICAL};

ops! {
    GATHER = OpDef {
        name: "gather",
        doc: "Rows of a table: y[i…, …] = table[ids[i…], …]. ids is u32 or i32; an id outside of the table gives a row of zeros. \
              A table of a float type is decoded to f32, one of integers or truth keeps its type; a quantised one is [rows, width].",
        rule: gather_rule,
        shard: shard::gather,
        cost: rule::free,
        body: Body::Primitive(Primitive::Gather),
        grad: Grad::Rule(grad::gather),
        within: Within::rel(1e-6),
        cases: || {
            let ids = |n| (of(DType::U32, [n]), Fill::Below(7));
            let mut cases = vec![
                Case::new(vec![normal([7, 17]), ids(3)], Attrs::None),
                Case::new(vec![normal([5, 3]), ids(17)], Attrs::None),
                Case::new(vec![normal([7]), ids(129)], Attrs::None),
                Case::new(vec![normal([7, 2, 3]), (of(DType::U32, [2, 4]), Fill::Below(7))], Attrs::None),
                Case::new(vec![normal([7, 3]), ids(0)], Attrs::None),
                Case::new(vec![(of(DType::I32, [7, 3]), Fill::Ties), ids(5)], Attrs::None),
                Case::new(vec![(of(DType::U32, [7]), Fill::Below(99)), ids(5)], Attrs::None),
                Case::new(vec![(of(DType::Bool, [7, 2]), Fill::Truth), ids(3)], Attrs::None),
            ];
            for dtype in DType::weights().filter(|d| *d != DType::F32) {
                let width = 96_usize.next_multiple_of(dtype.block()) as i64;
                cases.push(Case::new(vec![(of(dtype, [7, width]), Fill::Normal), ids(5)], Attrs::None));
            }
            cases
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 4]), f32s([2])], Attrs::None, "ids are f32, they must be u32 or i32"),
            ErrorCase::new(vec![f32s([]), of(DType::U32, [2])], Attrs::None, "the table is a scalar, it must have rows"),
        ],
    };
    SCATTER_ADD = OpDef {
        name: "scatter_add",
        doc: "Rows added to where their ids say: y[r, …] = Σ x[i…, …] over all i with ids[i…] = r, zeros where no id is r. x is f32, ids are u32 \
              or i32, an id outside of the `rows` of the result is passed over. Summed in the order of i: the same every time.",
        rule: scatter_add_rule,
        shard: shard::scatter_add,
        cost: |_, t, _| t[0].shape.count(),
        body: Body::Primitive(Primitive::ScatterAdd),
        grad: Grad::Rule(grad::scatter_add),
        within: Within { abs: 1e-5, rel: 1e-5 },
        cases: || {
            let case = |x: (Type, Fill), ids: Type, rows: i64| Case::new(vec![x, (ids, Fill::Below(7))], Attrs::Rows(rows.into()));
            vec![
                case(normal([3, 17]), of(DType::U32, [3]), 7),
                case(normal([129, 5]), of(DType::U32, [129]), 4),
                case(normal([17]), of(DType::I32, [17]), 7),
                case(normal([2, 4, 2, 3]), of(DType::U32, [2, 4]), 9),
                case(normal([0, 3]), of(DType::U32, [0]), 7),
                case(normal([5, 3]), of(DType::U32, [5]), 0),
            ]
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 4]), f32s([3])], Attrs::Rows(2.into()), "ids are f32, they must be u32 or i32"),
            ErrorCase::new(vec![f32s([3, 4]), of(DType::U32, [2])], Attrs::Rows(2.into()), "x is [3, 4], it must begin as the ids [2]"),
            ErrorCase::new(vec![of(DType::F16, [2, 4]), of(DType::U32, [2])], Attrs::Rows(2.into()), "x is f16, it must be f32"),
        ],
    };
    SCATTER = OpDef {
        name: "scatter",
        doc: "x with rows replaced: y[ids[i], …] = new[i, …], all other rows those of x [rows, …]. Of equal ids the last wins; an id outside of x is passed over.",
        rule: scatter_rule,
        shard: |_, t, _| shard::columns(t),
        cost: rule::free,
        body: Body::Composite { define: scatter, fused: Fused::Parts },
        grad: Grad::Definition,
        within: Within::EXACT,
        cases: || {
            let case = |x: Type, ids: Type, new: Type, fill| Case::new(vec![(x, fill), (ids, Fill::Below(9)), (new, fill)], Attrs::None);
            vec![
                case(f32s([9, 3]), of(DType::U32, [4]), f32s([4, 3]), Fill::Normal),
                case(f32s([7]), of(DType::I32, [17]), f32s([17]), Fill::Normal),
                case(of(DType::I32, [5, 2, 3]), of(DType::U32, [3]), of(DType::I32, [3, 2, 3]), Fill::Ties),
                case(f32s([5, 2]), of(DType::U32, [0]), f32s([0, 2]), Fill::Normal),
                case(of(DType::F16, [9, 4]), of(DType::U32, [3]), of(DType::F16, [3, 4]), Fill::Normal),
            ]
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 4]), f32s([2]), f32s([2, 4])], Attrs::None, "ids are f32[2], they must be one axis of u32 or i32"),
            ErrorCase::new(vec![f32s([3, 4]), of(DType::U32, [2]), f32s([2, 5])], Attrs::None, "2 rows of [2, 5] do not fit [3, 4]"),
            ErrorCase::new(vec![f32s([3, 4]), of(DType::U32, [2]), of(DType::I32, [2, 4])], Attrs::None, "the new rows are i32, x is f32"),
        ],
    };
    CONCAT = OpDef {
        name: "concat",
        doc: "Operands one after another along one axis; all other axes and the type are the same.",
        rule: concat_rule,
        shard: shard::concat,
        cost: rule::free,
        body: Body::Primitive(Primitive::Concat),
        grad: Grad::Rule(grad::concat),
        within: Within::EXACT,
        cases: || vec![
            Case::new(vec![normal([3, 4]), normal([3, 17])], Attrs::Axis(1)),
            Case::new(vec![normal([1, 5]), normal([2, 5]), normal([0, 5]), normal([3, 5])], Attrs::Axis(0)),
            Case::new(vec![normal([129])], Attrs::Axis(0)),
            Case::new(vec![(of(DType::F16, [2, 3]), Fill::Normal), (of(DType::F16, [2, 4]), Fill::Normal)], Attrs::Axis(1)),
            Case::new(vec![(of(DType::U32, [2]), Fill::Below(9)), (of(DType::U32, [3]), Fill::Below(9))], Attrs::Axis(0)),
        ],
        errors: || vec![
            ErrorCase::new(vec![f32s([3, 4]), f32s([2, 4])], Attrs::Axis(1), "operand 1 is [2, 4]: it differs from [3, 4] beside axis 1"),
            ErrorCase::new(vec![f32s([3]), of(DType::I32, [3])], Attrs::Axis(0), "operand 1 is i32, the first is f32"),
            ErrorCase::new(vec![], Attrs::Axis(0), "takes one operand or more, got 0"),
            ErrorCase::new(vec![f32s([3])], Attrs::Axis(1), "axis 1 is outside of [3], rank 1"),
        ],
    };
    PAD = OpDef {
        name: "pad",
        doc: "`before` and `after` copies of `value` added to one axis.",
        rule: pad_rule,
        shard: shard::pad,
        cost: rule::free,
        body: Body::Primitive(Primitive::Pad),
        grad: Grad::Rule(grad::pad),
        within: Within::EXACT,
        cases: || {
            let pad = |axis, before, after, value| Attrs::Pad { axis, before, after, value };
            vec![
                Case::new(vec![normal([3, 4])], pad(1, 2, 3, 0.0)),
                Case::new(vec![normal([17])], pad(0, 0, 1, -1.5)),
                Case::new(vec![normal([0, 2])], pad(0, 1, 1, 7.0)),
                Case::new(vec![(of(DType::F16, [3, 5]), Fill::Normal)], pad(0, 1, 0, 2.0)),
            ]
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([3])], Attrs::Pad { axis: 1, before: 0, after: 1, value: 0.0 }, "axis 1 is outside of [3], rank 1"),
            ErrorCase::new(vec![of(TYPICAL, [32])], Attrs::Pad { axis: 0, before: 0, after: 1, value: 0.0 }, "operand is q4_1, quantised blocks cannot be taken apart"),
        ],
    };
    APPEND = OpDef {
        name: "append",
        doc: "A state with rows [at, at + n) of axis 0 replaced by x [n, …], in place. The result is the state after the step's write. \
              With a third operand, ids u32 or i32 [n] that differ from each other, row i goes to row ids[i], and nowhere where that is outside \
              of the state; `at` is 0 then. A state of floats in less than f32 takes rows of f32, rounded as its type keeps them.",
        rule: append_rule,
        shard: shard::append,
        cost: rule::free,
        body: Body::Primitive(Primitive::Append),
        grad: Grad::Rule(grad::append),
        within: Within::EXACT,
        cases: || vec![
            Case::new(vec![normal([9, 4]), normal([2, 4])], Attrs::Append { at: 3.into() }),
            Case::new(vec![normal([17]), normal([17])], Attrs::Append { at: 0.into() }),
            Case::new(vec![normal([5, 3, 2]), normal([1, 3, 2])], Attrs::Append { at: 4.into() }),
            Case::new(vec![normal([5, 3]), normal([0, 3])], Attrs::Append { at: 5.into() }),
            Case::new(vec![normal([9, 4]), normal([3, 4]), (of(DType::U32, [3]), Fill::Different(9))], Attrs::Append { at: 0.into() }),
            Case::new(vec![normal([6, 2, 16]), normal([5, 2, 16]), (of(DType::I32, [5]), Fill::Different(8))], Attrs::Append { at: 0.into() }),
            Case::new(vec![normal([40]), normal([17]), (of(DType::U32, [17]), Fill::Different(60))], Attrs::Append { at: 0.into() }),
            Case::new(vec![normal([5, 3]), normal([0, 3]), (of(DType::U32, [0]), Fill::Below(5))], Attrs::Append { at: 0.into() }),
        ],
        errors: || vec![
            ErrorCase::new(vec![f32s([9, 4]), f32s([2, 4]), of(DType::U32, [3])], Attrs::Append { at: 0.into() }, "ids are u32[3], they must be u32[2] or i32[2]"),
            ErrorCase::new(vec![f32s([9, 4]), f32s([2, 4]), of(DType::U32, [2])], Attrs::Append { at: 1.into() }, "rows go where ids say, not behind 1 others"),
            ErrorCase::new(vec![f32s([9, 4]), f32s([2, 5])], Attrs::Append { at: 0.into() }, "rows of [2, 5] do not fit the state [9, 4]"),
            ErrorCase::new(vec![f32s([9, 4]), f32s([2, 4])], Attrs::Append { at: 8.into() }, "2 rows at 8 reach past the state's 9"),
            ErrorCase::new(vec![f32s([9]), of(DType::I32, [2])], Attrs::Append { at: 0.into() }, "rows are i32, the state is f32"),
        ],
    };
    ASSIGN = OpDef {
        name: "assign",
        doc: "A state replaced by x, of its type, at the end of all that read it before. The result is the state after the step's write.",
        rule: assign_rule,
        shard: shard::assign,
        cost: rule::free,
        body: Body::Primitive(Primitive::Assign),
        grad: Grad::Rule(grad::assign),
        within: Within::EXACT,
        cases: || vec![
            Case::new(vec![normal([9, 4]), normal([9, 4])], Attrs::None),
            Case::new(vec![normal([]), normal([])], Attrs::None),
            Case::new(vec![(of(DType::F16, [3, 6]), Fill::Normal), (of(DType::F16, [3, 6]), Fill::Normal)], Attrs::None),
            Case::new(vec![normal([0, 3]), normal([0, 3])], Attrs::None),
        ],
        errors: || vec![
            ErrorCase::new(vec![f32s([9, 4]), f32s([4, 9])], Attrs::None, "x is f32[4, 9], the state is f32[9, 4]"),
            ErrorCase::new(vec![f32s([9]), of(DType::I32, [9])], Attrs::None, "x is i32[9], the state is f32[9]"),
        ],
    };
    CAST = OpDef {
        name: "cast",
        doc: "x as another plain type. Floats become integers by dropping the fraction; truth becomes 0 or 1; f16 is rounded to nearest.",
        rule: cast_rule,
        shard: shard::pointwise,
        cost: rule::free,
        body: Body::Primitive(Primitive::Cast),
        grad: Grad::Rule(grad::cast),
        within: Within { abs: 1e-7, rel: 1e-3 },
        cases: || {
            let cast = |from, fill, to| Case::new(vec![(of(from, [3, 17]), fill)], Attrs::Cast(to));
            let mut cases = vec![
                cast(DType::F32, Fill::Normal, DType::F16),
                cast(DType::F16, Fill::Normal, DType::F32),
                cast(DType::I32, Fill::Below(99), DType::F16),
                cast(DType::F32, Fill::Ties, DType::I32),
                cast(DType::F32, Fill::Positive, DType::U32),
                cast(DType::F32, Fill::Ties, DType::Bool),
                cast(DType::I32, Fill::Below(99), DType::F32),
                cast(DType::U32, Fill::Below(99), DType::I32),
                cast(DType::Bool, Fill::Truth, DType::F32),
            ];
            for narrow in DType::weights().filter(|d| d.is_narrow()) {
                cases.extend([cast(DType::F32, Fill::Normal, narrow), cast(narrow, Fill::Normal, DType::F32), cast(narrow, Fill::Normal, DType::F16)]);
            }
            cases
        },
        errors: || vec![
            ErrorCase::new(vec![f32s([32])], Attrs::Cast(TYPICAL), "cannot cast f32 to q4_1"),
            ErrorCase::new(vec![of(TYPICAL, [32])], Attrs::Cast(DType::F32), "cannot cast q4_1 to f32"),
        ],
    };
    IOTA = OpDef {
        name: "iota",
        doc: "start + the index along one axis, in the given shape: positions. f32, i32 or u32.",
        rule: iota_rule,
        shard: shard::none,
        cost: rule::free,
        body: Body::Primitive(Primitive::Iota),
        grad: Grad::None("it has no operands"),
        within: Within::EXACT,
        cases: || {
            let iota = |axis, start: i64, dtype| Attrs::Iota { shape: [3, 17].into(), axis, start: start.into(), dtype };
            vec![
                Case::new(vec![], iota(1, 0, DType::I32)),
                Case::new(vec![], iota(0, 5, DType::U32)),
                Case::new(vec![], iota(1, 2, DType::F32)),
            ]
        },
        errors: || vec![
            ErrorCase::new(vec![], Attrs::Iota { shape: [3].into(), axis: 1, start: 0.into(), dtype: DType::I32 }, "axis 1 is outside of [3], rank 1"),
            ErrorCase::new(vec![], Attrs::Iota { shape: [3].into(), axis: 0, start: 0.into(), dtype: DType::Bool }, "cannot count in bool"),
        ],
    };
}

fn gather_rule(_: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("gather", types, 2)?;
    let (table, ids) = (&types[0], &types[1]);
    if !ids.dtype.is_int() {
        return rule::err("gather", format!("ids are {}, they must be u32 or i32", ids.dtype));
    }
    if table.shape.rank() == 0 {
        return rule::err("gather", "the table is a scalar, it must have rows");
    }
    let width = table.shape.0.last().and_then(|d| d.known()).unwrap_or(0);
    if table.dtype.is_quantised() && (table.shape.rank() < 2 || width % table.dtype.block() as i64 != 0) {
        let block = table.dtype.block();
        return rule::err(
            "gather",
            format!("the quantised table is {}, its rows must be of whole blocks of {block}", table.shape),
        );
    }
    let dims = ids.shape.iter().chain(&table.shape[1..]).copied().collect::<Vec<_>>();
    Ok(Type::new(if table.dtype.is_float() { DType::F32 } else { table.dtype }, dims))
}

fn scatter_rule(_: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("scatter", types, 3)?;
    let (x, ids, new) = (&types[0], &types[1], &types[2]);
    if !ids.dtype.is_int() || ids.shape.rank() != 1 {
        return rule::err("scatter", format!("ids are {ids}, they must be one axis of u32 or i32"));
    }
    if x.dtype != new.dtype || x.dtype.is_quantised() {
        return rule::err("scatter", format!("the new rows are {}, x is {}", new.dtype, x.dtype));
    }
    let fits = x.shape.rank() > 0 && new.shape.rank() == x.shape.rank() && new.shape[1..] == x.shape[1..];
    if !fits || new.shape[0] != ids.shape[0] {
        return rule::err("scatter", format!("{} rows of {} do not fit {}", ids.shape[0], new.shape, x.shape));
    }
    // Places are compared as f32.
    if ids.shape[0].bound() > 1 << 24 {
        return rule::err("scatter", format!("{} rows are replaced, at most {} can be", ids.shape[0], 1 << 24));
    }
    Ok(Type::new(if x.dtype.is_float() { DType::F32 } else { x.dtype }, x.shape.clone()))
}

/// For each row the last id that names it; then the new row where there is one.
fn scatter(b: &mut dyn Build, _: &Attrs, args: &[Value]) -> Result<Value> {
    let (x, n) = (b.shape(args[0]), b.shape(args[1])[0]);
    let (rows, one) = (x[0], Dim::new(1));
    let narrow = b.ty(args[0]).dtype.is_narrow();
    let old = if narrow { b.apply(&CAST, Attrs::Cast(DType::F32), &args[..1])? } else { args[0] };
    if n.is(0) {
        let none = if narrow { b.apply(&CAST, Attrs::Cast(DType::F32), &args[2..])? } else { args[2] };
        return b.concat(&[old, none], 0);
    }
    let count = |shape: Vec<Dim>, axis, dtype| Attrs::Iota { shape: Shape(shape), axis, start: 0.into(), dtype };
    let each = b.apply(&IOTA, count(vec![rows, one], 0, DType::I32), &[])?;
    let ids = b.apply(&CAST, Attrs::Cast(DType::I32), &[args[1]])?;
    let ids = b.reshape(ids, vec![one, n])?;
    let named = b.binary(&EQ, each, ids)?;
    let (place, none) = (b.apply(&IOTA, count(vec![one, n], 1, DType::F32), &[])?, b.constant(-1.0));
    let place = b.apply(&WHERE, Attrs::None, &[named, place, none])?;
    let last = b.apply(&MAX, Attrs::Reduce { axes: vec![1], keep: false }, &[place])?;
    let at = b.apply(&CAST, Attrs::Cast(DType::I32), &[last])?;
    let new = b.binary(&GATHER, args[2], at)?;
    let zero = b.constant(0.0);
    let replaced = b.binary(&GE, last, zero)?;
    let replaced = b.reshape(replaced, [vec![rows], vec![one; x.rank() - 1]].concat())?;
    b.apply(&WHERE, Attrs::None, &[replaced, new, old])
}

fn scatter_add_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("scatter_add", types, 2)?;
    let Attrs::Rows(rows) = *attrs else { return rule::wrong_attrs("scatter_add", attrs) };
    let (x, ids) = (&types[0], &types[1]);
    if !ids.dtype.is_int() {
        return rule::err("scatter_add", format!("ids are {}, they must be u32 or i32", ids.dtype));
    }
    if x.dtype != DType::F32 {
        return rule::err("scatter_add", format!("x is {}, it must be f32", x.dtype));
    }
    if x.shape.rank() < ids.shape.rank() || x.shape[..ids.shape.rank()] != ids.shape[..] {
        return rule::err("scatter_add", format!("x is {}, it must begin as the ids {}", x.shape, ids.shape));
    }
    let dims = std::iter::once(rows).chain(x.shape[ids.shape.rank()..].iter().copied()).collect::<Vec<_>>();
    Ok(Type::f32(dims))
}

fn assign_rule(_: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("assign", types, 2)?;
    let (state, x) = (&types[0], &types[1]);
    if state != x {
        return rule::err("assign", format!("x is {x}, the state is {state}"));
    }
    if state.shape.known().is_none() {
        return rule::err("assign", format!("the state is {state}: its size may not vary between steps"));
    }
    Ok(state.clone())
}

fn concat_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    let Attrs::Axis(axis) = *attrs else { return rule::wrong_attrs("concat", attrs) };
    let Some(first) = types.first() else { return rule::err("concat", "takes one operand or more, got 0") };
    rule::axis("concat", axis, &first.shape)?;
    let mut total = Dim::new(0);
    for (i, ty) in types.iter().enumerate() {
        if ty.dtype != first.dtype || ty.dtype.is_quantised() {
            return rule::err("concat", format!("operand {i} is {}, the first is {}", ty.dtype, first.dtype));
        }
        let fits = ty.shape.rank() == first.shape.rank()
            && (0..ty.shape.rank()).all(|d| d == axis || ty.shape[d] == first.shape[d]);
        if !fits {
            return rule::err(
                "concat",
                format!("operand {i} is {}: it differs from {} beside axis {axis}", ty.shape, first.shape),
            );
        }
        total = total + ty.shape[axis];
    }
    let mut shape = first.shape.clone();
    shape.0[axis] = total;
    Ok(Type::new(first.dtype, shape))
}

fn pad_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("pad", types, 1)?;
    let Attrs::Pad { axis, before, after, .. } = *attrs else { return rule::wrong_attrs("pad", attrs) };
    let x = &types[0];
    if x.dtype.is_quantised() {
        return rule::err("pad", format!("operand is {}, quantised blocks cannot be taken apart", x.dtype));
    }
    rule::axis("pad", axis, &x.shape)?;
    let mut shape = x.shape.clone();
    shape.0[axis] = shape[axis] + Dim::from(before) + Dim::from(after);
    Ok(Type::new(x.dtype, shape))
}

fn append_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    if types.len() != 3 {
        rule::arity("append", types, 2)?;
    }
    let Attrs::Append { at } = *attrs else { return rule::wrong_attrs("append", attrs) };
    let (state, x) = (&types[0], &types[1]);
    // A state may keep floats in less than rows of f32 have: they are rounded on their way.
    let rounds = x.dtype == DType::F32 && state.dtype.is_float();
    if state.dtype != x.dtype && !rounds {
        return rule::err("append", format!("rows are {}, the state is {}", x.dtype, state.dtype));
    }
    let width = state.shape.0.last().and_then(|d| d.known()).unwrap_or(0);
    if state.dtype.is_quantised() && width % state.dtype.block() as i64 != 0 {
        let block = state.dtype.block();
        return rule::err(
            "append",
            format!("rows of {width} are no whole blocks of {block}, in which {} is kept", state.dtype),
        );
    }
    if state.shape.rank() == 0 || x.shape.rank() != state.shape.rank() || x.shape[1..] != state.shape[1..] {
        return rule::err("append", format!("rows of {} do not fit the state {}", x.shape, state.shape));
    }
    if let Some(ids) = types.get(2) {
        if !ids.dtype.is_int() || ids.shape.0 != [x.shape[0]] {
            return rule::err("append", format!("ids are {ids}, they must be u32[{0}] or i32[{0}]", x.shape[0]));
        }
        if !at.is(0) {
            return rule::err("append", format!("rows go where ids say, not behind {at} others"));
        }
        return Ok(state.clone());
    }
    // A rank's own numbers are within its state, but not each at its bound.
    let trusted = at.terms().chain(x.shape[0].terms()).any(|(v, _)| v.is_local());
    if !trusted && (at + x.shape[0]).bound() > state.shape[0].bound() {
        return rule::err("append", format!("{} rows at {at} reach past the state's {}", x.shape[0], state.shape[0]));
    }
    Ok(state.clone())
}

fn cast_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("cast", types, 1)?;
    let Attrs::Cast(to) = *attrs else { return rule::wrong_attrs("cast", attrs) };
    if to.is_quantised() || types[0].dtype.is_quantised() {
        return rule::err("cast", format!("cannot cast {} to {to}", types[0].dtype));
    }
    Ok(Type::new(to, types[0].shape.clone()))
}

fn iota_rule(attrs: &Attrs, types: &[Type]) -> Result<Type> {
    rule::arity("iota", types, 0)?;
    let Attrs::Iota { shape, axis, dtype, .. } = attrs else { return rule::wrong_attrs("iota", attrs) };
    rule::axis("iota", *axis, shape)?;
    if !matches!(*dtype, DType::F32 | DType::I32 | DType::U32) {
        return rule::err("iota", format!("cannot count in {dtype}"));
    }
    Ok(Type::new(*dtype, shape.clone()))
}
