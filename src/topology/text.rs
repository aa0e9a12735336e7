//! A machine as text.

use super::machine::{Device, Role, Scope, Topology};
use std::fmt::Write;

impl Topology {
    /// What it is made of, how its parts hang together, and what a device sees of the others.
    pub fn to_text(&self) -> String {
        let mut out = format!("{}: {}\n", self.name, self.title);
        let racks =
            self.rack.map_or(String::new(), |r| format!(" in {} of {r}", counted(self.nodes.div_ceil(r), "rack")));
        let _ = writeln!(out, "{}{racks}, {}\n", counted(self.nodes, "node"), counted(self.devices(), "device"));
        for (group, device) in self.device_groups() {
            let _ = writeln!(out, "{} {} a node: {}", group.count, group.name, device.title);
            out += &about(device);
        }
        out += "\n";
        let mut open: Vec<bool> = vec![false; self.groups.len()];
        let outermost =
            |scope: Scope| self.groups.iter().position(|g| g.scope == scope && !matches!(g.role, Role::Device(_)));
        let top = outermost(Scope::Cluster).or(outermost(Scope::Rack)).unwrap_or(0);
        let starts = std::iter::once(top).chain(0..self.groups.len());
        for start in starts.collect::<Vec<_>>() {
            if !std::mem::replace(&mut open[start], true) {
                let _ = writeln!(out, "{}", self.group_name(start));
                self.branch(start, "", &mut open, &mut out);
            }
        }
        out += "\n";
        for level in self.levels() {
            let sums = if level.way.reduction { ", a switch sums" } else { "" };
            let _ = writeln!(
                out,
                "among {:>6} devices  {:>9} a device and direction, {:>7}, over {}{sums}",
                level.devices, level.way.bandwidth, level.way.latency, level.way.kind
            );
        }
        out
    }

    fn group_name(&self, at: usize) -> String {
        let g = &self.groups[at];
        let what = match &g.role {
            Role::Switch { reduction: true } => "switch that sums",
            Role::Switch { reduction: false } => "switch",
            Role::Host => "host",
            Role::Nic => "NIC",
            Role::Device(_) => "device",
        };
        let scope = match g.scope {
            Scope::Node => "",
            Scope::Rack => ", one rack's",
            Scope::Cluster => ", all nodes'",
        };
        let times = if g.count > 1 { format!(" × {}", g.count) } else { String::new() };
        format!("{}{times} ({what}{scope})", g.name)
    }

    fn branch(&self, at: usize, indent: &str, open: &mut Vec<bool>, out: &mut String) {
        let here: Vec<(usize, usize)> = self
            .links
            .iter()
            .enumerate()
            .filter_map(|(i, l)| match (l.from == at, l.to == at) {
                (true, _) => Some((i, l.to)),
                (_, true) => Some((i, l.from)),
                _ => None,
            })
            .collect();
        let shown: Vec<(usize, usize)> = here.into_iter().filter(|(_, other)| *other == at || !open[*other]).collect();
        shown.iter().for_each(|(_, other)| open[*other] = true);
        for (i, (link, other)) in shown.iter().enumerate() {
            let last = i + 1 == shown.len();
            let l = &self.links[*link];
            let lanes = match (l.lanes, l.pairs.is_empty()) {
                (1, true) => String::new(),
                (n, true) => format!(" × {n}"),
                (_, false) => format!(", {} wires", l.pairs.len()),
            };
            let target = if *other == at { "among themselves".into() } else { self.group_name(*other) };
            let _ = writeln!(
                out,
                "{indent}{} {}{lanes}, {} ─ {target}",
                if last { "└─" } else { "├─" },
                l.kind,
                l.bandwidth()
            );
            if *other != at {
                self.branch(*other, &format!("{indent}{}", if last { "   " } else { "│  " }), open, out);
            }
        }
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn about(d: &Device) -> String {
    let rates: Vec<String> = d
        .peak
        .iter()
        .map(|(p, rate)| {
            format!(
                "{} {}",
                p.name(),
                rate.to_string().replace("TFLOP/s", "T").replace("PFLOP/s", "P").replace("GFLOP/s", "G")
            )
        })
        .collect();
    let price = d.price.map_or(String::new(), |p| format!(", {p}"));
    let source = if d.source.is_empty() { String::new() } else { format!("    source    {}\n", d.source) };
    format!(
        "    memory    {} at {}\n    peak      {} operations per second, dense\n    power     {} idle, limit {}{price}\n{source}",
        d.memory,
        d.bandwidth,
        rates.join(", "),
        d.idle,
        d.limit
    )
}
