//! Attention by tiles of keys: when layouts allow it, and its dispatches.

use super::code::Bound;
use super::heavy::{Launch, Operand, bound, ceil, launch, operand, read_bytes, u};
use super::lower::Lower;
use super::{Buffer, BufferId, Param, Role};
use crate::base::{DeviceFault, Dim, Error, Expr, Result};
use crate::kernel::{Kernel, attention, flash};
use crate::op::{Attrs, Value};

/// Invocations of a workgroup that merges parts.
const GROUP: u32 = 64;

/// Whether rows of queries, keys and values are whole aligned vectors.
pub fn fits(o: &[Operand]) -> bool {
    let whole = |e: &Expr| e.divisible_by(4);
    o.iter()
        .take(3)
        .all(|x| whole(&Expr::from(x.shape[3])) && whole(&x.layout.offset) && x.layout.strides[..3].iter().all(whole))
}

/// What attention's kernels share: their text but for `main`, numbers and the mask's binding.
pub struct Attention<'a> {
    pub operands: &'a [Operand],
    pub holes: Vec<(&'static str, String)>,
    pub params: Vec<(String, Param)>,
    pub mask: Option<Bound>,
}

/// One dispatch, or two where few workgroups would run: keys go in parts then.
pub fn emit(l: &mut Lower, v: Value, a: Attention) {
    let (q, k) = (a.operands[0].shape.clone(), a.operands[1].shape.clone());
    let width = q[3].known().unwrap_or(0) as u32;
    let each = q[2].known().unwrap_or(1) / k[2].known().unwrap_or(1).max(1);
    let rows = Expr::from(q[1]) * each;
    let groups = rows.bound().div_ceil(flash::ROWS as u64) * k[2].bound() as u64 * q[0].bound() as u64;
    let parts = if l.options.fuse { flash::parts(groups, k[1].bound() as u64) } else { 1 };
    let all = Expr::from(q[0]) * Expr::from(q[1]) * Expr::from(q[2]);
    let result = match parts {
        1 => l.buffers(v)[0],
        _ => {
            let bytes = all.bound() * parts * (width as u64 * 4 + 16);
            let label = format!("{} parts", l.graph.node(v).name);
            l.plan.buffers.push(Buffer { role: Role::Scratch, bytes, texels: false, label });
            BufferId(l.plan.buffers.len() as u32 - 1)
        }
    };
    let names = a.operands.iter().zip(["q", "k", "v"]);
    let mut bounds: Vec<Bound> = names.map(|(x, n)| bound(n, x.buffer, "vec4<f32>", false)).collect();
    bounds.push(bound("y", result, "vec4<f32>", true));
    bounds.extend(a.mask);
    let mut kernel = flash::kernel(width, parts > 1);
    for (name, text) in a.holes {
        kernel = kernel.hole(name, text);
    }
    let mut params = a.params;
    params.push(u("parts", parts as i64));
    let grid = [ceil(rows, flash::ROWS), ceil(k[2], 1), ceil(Expr::from(q[0]) * parts as i64, 1)];
    let bytes = a.operands.iter().fold(q.count() * 4 * parts as i64, |sum, x| sum + read_bytes(x));
    launch(l, v, v, Launch { kernel, bound: bounds, params, grid, bytes });
    if parts > 1 {
        let bounds = vec![bound("x", result, "vec4<f32>", false), bound("y", l.buffers(v)[0], "vec4<f32>", true)];
        let params = vec![u("rows", all.clone()), u("width", q[3]), u("parts", parts as i64), u("y0", 0)];
        let grid = [ceil(all * (width as i64 / 4), GROUP), ceil(1, 1), ceil(1, 1)];
        let bytes = q.count() * 4 * (parts as i64 + 1);
        launch(l, v, v, Launch { kernel: Kernel::new(&flash::MERGE), bound: bounds, params, grid, bytes });
        // The first dispatch has all of the work.
        l.share(|_| Expr::new(0));
    }
}

/// Elements of a head: a number that kernels can take.
pub fn head_width(op: &str, name: &str, width: Dim) -> Result<u32> {
    match width.known().unwrap_or(0) as u32 {
        n @ 1..=attention::MAX_WIDTH => Ok(n),
        _ => {
            let what = format!("\"{name}\" has heads of {width}, kernels take up to {}", attention::MAX_WIDTH);
            Err(Error::device(DeviceFault::Limit, op, what))
        }
    }
}

/// Attention over pages: an invocation or a workgroup makes a row of a head, and walks through its sequence's pages.
pub fn emit_pages(l: &mut Lower, v: Value, attrs: &Attrs, args: &[Value]) -> Result<()> {
    let name = l.graph.node(v).name.clone();
    let Attrs::Pages { how, page } = attrs else {
        return Err(Error::op("paged_attention", &name, "lacks its attributes"));
    };
    let o = args.iter().map(|a| operand(l, *a)).collect::<Result<Vec<_>>>()?;
    let (q, pool, tables) = (&o[0].shape, &o[1].shape, &o[3].shape);
    let width = head_width("paged_attention", &name, q[2])?;
    let keys = Expr::from(tables[1]) * *page as i64;
    let spec = attention::Spec {
        width,
        causal: true,
        window: how.window.is_some(),
        mask: None,
        softcap: how.softcap.is_some(),
        sinks: how.sinks,
        pages: true,
        serial: l.options.tuning.serial && keys.bound() <= attention::serial_keys(width),
    };
    let mut bounds: Vec<Bound> = o.iter().zip(["q", "k", "v"]).map(|(x, n)| bound(n, x.buffer, "f32", false)).collect();
    bounds.push(bound("y", l.buffers(v)[0], "f32", true));
    let words = o[3..6].iter().zip(["tables", "sequences", "positions"]);
    bounds.extend(words.clone().map(|(x, n)| bound(n, x.buffer, "u32", false)));
    bounds.extend(o.get(6).map(|s| bound("sinks", s.buffer, "f32", false)));
    let mut params = vec![
        u("batch", 1),
        u("queries", q[0]),
        u("heads", q[1]),
        u("keys", keys),
        u("kv_heads", pool[1]),
        u("width", q[2]),
        u("y0", 0),
        ("scale".to_string(), Param::F(how.scale)),
        u("past", 0),
        u("window", how.window.unwrap_or(0) as i64),
        ("softcap".to_string(), Param::F(how.softcap.unwrap_or(0.0))),
        u("sinks0", o.get(6).map_or(Expr::new(0), |s| s.layout.offset.clone())),
        u("pool", pool[0]),
        u("page", *page as i64),
        u("per", tables[1]),
        u("sequences", tables[0]),
    ];
    for (x, n) in o.iter().zip(["q", "k", "v"]) {
        params.extend([
            u(&format!("{n}0"), x.layout.offset.clone()),
            u(&format!("{n}_batch"), 0),
            u(&format!("{n}_row"), x.layout.strides[0].clone()),
            u(&format!("{n}_head"), x.layout.strides[1].clone()),
        ]);
    }
    params.extend(words.map(|(x, n)| u(&format!("{n}0"), x.layout.offset.clone())));
    params.extend(["mask0", "mask_batch", "mask_head", "mask_row", "mask_key"].map(|n| u(n, 0)));
    let (kernel, per_group) = attention::kernel(spec);
    let bytes = o.iter().fold(q.count() * 4, |sum, x| sum + read_bytes(x));
    let grid = [ceil(Expr::from(q[0]) * Expr::from(q[1]), per_group), ceil(1, 1), ceil(1, 1)];
    launch(l, v, v, Launch { kernel, bound: bounds, params, grid, bytes });
    Ok(())
}
