//! A plan as text.

use super::{Param, Plan, Role};
use std::fmt;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "buffers")?;
        for (i, b) in self.buffers.iter().enumerate() {
            let role = match &b.role {
                Role::Weight { dtype, rows, of_rows, .. } if rows.len() != *of_rows => {
                    format!("weight {dtype} rows {rows:?} of {of_rows}")
                }
                Role::Weight { dtype, .. } => format!("weight {dtype}"),
                Role::Data(_) => "data".into(),
                Role::State(_) => "state".into(),
                Role::Input(_) => "input".into(),
                Role::Output(_) => "output".into(),
                Role::Scratch => "scratch".into(),
            };
            let texels = if b.texels { " in texels" } else { "" };
            writeln!(f, "  b{i:<4} {:>12} B  {role}{texels}  \"{}\"", b.bytes, b.label)?;
        }
        writeln!(f, "dispatches")?;
        let transfers = |f: &mut fmt::Formatter<'_>, i: usize| {
            self.transfers.iter().filter(|t| t.before == i).try_for_each(|t| {
                let from = t.from.as_ref().map_or(String::new(), |b| format!("b{} ", b.0.0));
                writeln!(
                    f,
                    "  →    {:<14} over {}={}  {from}→ b{}  {} of {} elements  \"{}\"",
                    format!("{:?}", t.exchange),
                    t.how.over,
                    t.ways(),
                    t.to.0,
                    t.how.to,
                    t.row,
                    t.label
                )
            })
        };
        for (i, d) in self.dispatches.iter().enumerate() {
            transfers(f, i)?;
            let args: Vec<String> = d
                .args
                .iter()
                .map(|a| format!("{}{}=b{}", if a.write { "*" } else { "" }, a.name, a.buffer.0))
                .collect();
            let params: Vec<String> = d
                .params
                .iter()
                .map(|(n, p)| match p {
                    Param::U(e) | Param::I(e) => format!("{n}={e}"),
                    Param::F(x) => format!("{n}={x}"),
                })
                .collect();
            let grid: Vec<String> = d
                .grid
                .iter()
                .map(|c| if c.by == 1 { c.n.to_string() } else { format!("({})/{}", c.n, c.by) })
                .collect();
            writeln!(
                f,
                "  {i:<4} {:<14} k{:<3} {}  \"{}\"",
                self.kernels[d.kernel].name(),
                d.kernel,
                d.ops.join("+"),
                d.label
            )?;
            writeln!(f, "       {}  grid {}  {}", args.join(" "), grid.join(" × "), params.join(" "))?;
            writeln!(f, "       {} FLOP, {} B", d.flops, d.bytes)?;
        }
        transfers(f, self.dispatches.len())?;
        let sum = |which: fn(&Role) -> bool| self.bytes_where(which);
        writeln!(
            f,
            "{} dispatches of {} kernels; weights {} B, states {} B, scratch {} B, in all {} B",
            self.dispatches.len(),
            self.kernels.len(),
            sum(|r| matches!(r, Role::Weight { .. } | Role::Data(_))),
            sum(|r| matches!(r, Role::State(_))),
            sum(|r| matches!(r, Role::Scratch | Role::Input(_) | Role::Output(_))),
            self.total_bytes()
        )
    }
}
