//! The dispatch of the gated delta rule.

use super::code::Bound;
use super::heavy::{Launch, bound, ceil, launch, operand, read_bytes, u};
use super::lower::Lower;
use crate::base::{DeviceFault, Error, Expr, Result};
use crate::kernel::delta;
use crate::op::Value;

/// A workgroup for some columns of each head of each sequence, and of the rows that are of none.
pub fn emit(l: &mut Lower, v: Value, args: &[Value]) -> Result<()> {
    let o = args.iter().map(|a| operand(l, *a)).collect::<Result<Vec<_>>>()?;
    let (keys, values) = (&o[0].shape, &o[2].shape);
    let width = match keys[2].known().unwrap_or(0) as u32 {
        n @ 1..=delta::MAX_WIDTH => n,
        _ => {
            let name = &l.graph.node(v).name;
            let what = format!("\"{name}\" has keys of {}, kernels take up to {}", keys[2], delta::MAX_WIDTH);
            return Err(Error::device(DeviceFault::Limit, "delta_rule", what));
        }
    };
    let elements = ["f32", "f32", "f32", "f32", "f32", "u32", "u32"];
    let names = ["q", "k", "v", "gates", "states", "first", "owners"];
    let mut bounds: Vec<Bound> =
        o.iter().zip(names).zip(elements).map(|((x, n), e)| bound(n, x.buffer, e, false)).collect();
    bounds.push(bound("y", l.buffers(v)[0], "f32", true));
    let blocks = (values[2].known().unwrap_or(0) as u64).div_ceil(delta::COLUMNS as u64) as i64;
    let sequences = Expr::from(o[5].shape[0]);
    let mut params = vec![
        u("n", values[0]),
        u("sequences", sequences.clone()),
        u("slots", o[4].shape[0]),
        u("heads", values[1]),
        u("key_heads", keys[1]),
        u("d", keys[2]),
        u("e", values[2]),
        u("blocks", blocks),
        u("gates0", o[3].layout.offset.clone()),
        u("states0", o[4].layout.offset.clone()),
        u("slots0", o[5].layout.offset.clone()),
        u("owners0", o[6].layout.offset.clone()),
        u("y0", 0),
    ];
    for (x, n) in o.iter().zip(["q", "k", "v"]) {
        params.extend([
            u(&format!("{n}0"), x.layout.offset.clone()),
            u(&format!("{n}_row"), x.layout.strides[0].clone()),
            u(&format!("{n}_head"), x.layout.strides[1].clone()),
        ]);
    }
    let matrices = sequences.clone() * Expr::from(keys[2]) * Expr::from(values[1]) * Expr::from(values[2]);
    let rows = o[..4].iter().fold(values.count() * 4, |sum, x| sum + read_bytes(x));
    let grid = [ceil((sequences + Expr::new(1)) * Expr::from(values[1]) * blocks, 1), ceil(1, 1), ceil(1, 1)];
    let kernel = delta::kernel(width);
    launch(l, v, v, Launch { kernel, bound: bounds, params, grid, bytes: rows + matrices * 8 });
    Ok(())
}
