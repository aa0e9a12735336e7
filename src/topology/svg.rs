//! A machine as a picture.

use super::machine::{Role, Scope, Topology};
use super::net::Net;
use std::fmt::Write;

const BOX: (f64, f64) = (74.0, 40.0);
const GAP: f64 = 12.0;
const ROW: f64 = 112.0;
const MARGIN: f64 = 28.0;
const HEAD: f64 = 64.0;
const COLOURS: [&str; 6] = ["#2a6fbb", "#c2571a", "#3d8b40", "#8a3fa0", "#b08a00", "#5a6b7a"];
/// Parts of a group that are drawn; of more, the rest is counted.
const MOST_DRAWN: usize = 16;

/// Rows from top to bottom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Row {
    Fabric,
    Edge,
    Inner,
    Devices,
    Below,
}

struct Shape {
    part: usize,
    x: f64,
    y: f64,
    w: f64,
}

impl Topology {
    /// Nodes that are drawn, as many as are still legible.
    fn drawn(&self) -> Vec<usize> {
        let fits = (12 / self.devices_per_node().max(1)).clamp(1, 4);
        (0..self.nodes.min(fits)).collect()
    }

    fn row(&self, group: usize) -> Row {
        let touches = |what: fn(&Role) -> bool| {
            self.links.iter().any(|l| {
                (l.from == group && what(&self.groups[l.to].role)) || (l.to == group && what(&self.groups[l.from].role))
            })
        };
        let g = &self.groups[group];
        match g.role {
            Role::Device(_) => Row::Devices,
            Role::Host | Role::Nic => Row::Edge,
            Role::Switch { .. } if g.scope == Scope::Cluster => Row::Fabric,
            Role::Switch { .. } if touches(|r| matches!(r, Role::Host | Role::Nic)) => Row::Inner,
            Role::Switch { .. } => Row::Below,
        }
    }

    /// A standalone SVG document.
    pub fn to_svg(&self) -> String {
        let nodes = self.drawn();
        let net = Net::new(self, &nodes);
        let rows: Vec<Row> = net.parts.iter().map(|p| self.row(p.group)).collect();
        let mut used: Vec<Row> = rows.clone();
        used.sort();
        used.dedup();
        let top = |row: Row| HEAD + MARGIN + used.iter().position(|r| *r == row).unwrap_or(0) as f64 * ROW;
        let visible = |i: &usize| net.parts[*i].index < MOST_DRAWN;
        let (mut shapes, mut frames) = (vec![], vec![]);
        let mut x = MARGIN * 2.0;
        for node in &nodes {
            let mine = |row: Row| {
                (0..net.parts.len())
                    .filter(|i| {
                        rows[*i] == row
                            && net.parts[*i].place == *node
                            && self.groups[net.parts[*i].group].scope == Scope::Node
                    })
                    .filter(visible)
                    .collect::<Vec<_>>()
            };
            let widest = used.iter().map(|r| mine(*r).len()).max().unwrap_or(1).max(2) as f64;
            let width = widest * (BOX.0 + GAP) - GAP;
            let mut placed: Vec<Shape> = vec![];
            for row in [Row::Devices, Row::Inner, Row::Edge, Row::Below, Row::Fabric] {
                let order = by_neighbours(&net, mine(row), &placed);
                let wide = row == Row::Below && order.len() == 1;
                let step = width / order.len().max(1) as f64;
                let w = if wide { width } else { BOX.0.min(step - 6.0) };
                placed.extend(order.iter().enumerate().map(|(i, part)| Shape {
                    part: *part,
                    x: x + step * (i as f64 + 0.5) - w / 2.0,
                    y: top(row),
                    w,
                }));
            }
            frames.push((*node, x - MARGIN / 2.0, width + MARGIN));
            shapes.extend(placed);
            x += width + MARGIN * 2.0;
        }
        let title = self.title.chars().count().max(self.name.len()) as f64 * 10.4 + MARGIN * 2.0;
        let width = x.max(title).max(620.0);
        let shared = (0..net.parts.len())
            .filter(|i| self.groups[net.parts[*i].group].scope != Scope::Node)
            .filter(visible)
            .collect::<Vec<_>>();
        for part in shared {
            shapes.push(Shape { part, x: MARGIN * 1.5, y: top(rows[part]), w: x - MARGIN * 3.0 });
        }
        let kinds = self.kinds();
        let bottom = HEAD + MARGIN + used.len() as f64 * ROW - (ROW - BOX.1) + self.arcs() + MARGIN * 1.7;
        let height = bottom + 26.0 * kinds.len().div_ceil(2) as f64 + MARGIN;
        let mut out = self.head(width, height, nodes.len());
        self.frames(&mut out, &frames, &used, &rows, &net);
        wires(&mut out, &net, &shapes, &kinds);
        boxes(&mut out, &net, &shapes);
        self.legend(&mut out, &kinds, bottom, width);
        out + "</svg>\n"
    }

    /// Kinds of links in the order of the file, with what one of them carries.
    fn kinds(&self) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = vec![];
        for l in &self.links {
            let lanes = if l.lanes > 1 { format!(" ({} lanes of {})", l.lanes, l.lane) } else { String::new() };
            if !out.iter().any(|k| k.0 == l.kind) {
                out.push((l.kind.clone(), format!("{}: {} a direction{lanes}", l.kind, l.bandwidth())));
            }
        }
        out
    }

    /// Room below for wires between devices.
    fn arcs(&self) -> f64 {
        let own = |l: &&super::machine::Link| l.from == l.to && matches!(self.groups[l.from].role, Role::Device(_));
        if self.links.iter().any(|l| own(&l)) { 50.0 } else { 0.0 }
    }

    fn head(&self, width: f64, height: f64, drawn: usize) -> String {
        let what = match (self.nodes, drawn) {
            (1, _) => format!("{} devices", self.devices()),
            (n, d) if n == d => format!("{n} nodes, {} devices", self.devices()),
            (n, d) => format!(
                "{n} nodes, {} devices; {} drawn",
                self.devices(),
                if d == 1 { "one node is".into() } else { format!("{d} nodes are") }
            ),
        };
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
             <text x=\"{MARGIN}\" y=\"34\" font-size=\"18\" font-weight=\"600\" fill=\"#1c2733\">{}</text>\n\
             <text x=\"{MARGIN}\" y=\"56\" font-size=\"13\" fill=\"#5a6b7a\">{}</text>\n",
            escaped(if self.title.is_empty() { &self.name } else { &self.title }),
            escaped(&what)
        )
    }

    fn frames(&self, out: &mut String, frames: &[(usize, f64, f64)], used: &[Row], rows: &[Row], net: &Net) {
        let inside: Vec<Row> = used
            .iter()
            .copied()
            .filter(|r| (0..rows.len()).any(|i| rows[i] == *r && self.groups[net.parts[i].group].scope == Scope::Node))
            .collect();
        let at = |row: Row| used.iter().position(|r| *r == row).unwrap_or(0) as f64 * ROW + HEAD + MARGIN;
        let (Some(first), Some(last)) = (inside.first(), inside.last()) else { return };
        let (y, h) = (at(*first) - 30.0, at(*last) - at(*first) + BOX.1 + 48.0 + self.arcs());
        for (node, x, w) in frames {
            let _ = writeln!(
                out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"10\" fill=\"#f4f6f8\" stroke=\"#c8d0d8\"/>"
            );
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#5a6b7a\">node {node}</text>",
                x + 10.0,
                y + 17.0
            );
        }
    }

    fn legend(&self, out: &mut String, kinds: &[(String, String)], top: f64, width: f64) {
        for (i, (_, text)) in kinds.iter().enumerate() {
            let (x, y) = (MARGIN + (i % 2) as f64 * (width / 2.0 - MARGIN), top + (i / 2) as f64 * 26.0);
            let colour = COLOURS[i % COLOURS.len()];
            let _ = writeln!(
                out,
                "<line x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{:.1}\" y2=\"{y:.1}\" stroke=\"{colour}\" stroke-width=\"3\"/>",
                x + 26.0
            );
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"12\" fill=\"#1c2733\">{}</text>",
                x + 34.0,
                y + 4.0,
                escaped(text)
            );
        }
    }
}

/// Parts in the order of the middle of what they are wired to, so that wires cross little.
fn by_neighbours(net: &Net, mut parts: Vec<usize>, placed: &[Shape]) -> Vec<usize> {
    let others = |part: usize| {
        net.wires.iter().filter_map(move |w| {
            if w.ends[0] == part {
                Some(w.ends[1])
            } else if w.ends[1] == part {
                Some(w.ends[0])
            } else {
                None
            }
        })
    };
    let mean = |xs: Vec<f64>| if xs.is_empty() { f64::INFINITY } else { xs.iter().sum::<f64>() / xs.len() as f64 };
    let above = |part: usize| {
        mean(others(part).filter_map(|o| placed.iter().find(|s| s.part == o)).map(|s| s.x + s.w / 2.0).collect())
    };
    // A part wired to its own row alone stands right of its neighbour there.
    let middle = |part: usize| match above(part) {
        x if x.is_finite() => x,
        _ => mean(others(part).map(above).filter(|x| x.is_finite()).collect()) + 1.0,
    };
    parts.sort_by(|a, b| middle(*a).total_cmp(&middle(*b)).then(a.cmp(b)));
    parts
}

fn wires(out: &mut String, net: &Net, shapes: &[Shape], kinds: &[(String, String)]) {
    for w in &net.wires {
        let find = |part: usize| shapes.iter().find(|s| s.part == part);
        let (Some(a), Some(b)) = (find(w.ends[0]), find(w.ends[1])) else { continue };
        let link = &net.topology.links[w.link];
        let colour = kinds.iter().position(|k| k.0 == link.kind).map_or("#000", |i| COLOURS[i % COLOURS.len()]);
        let thick = 1.4 + (w.lanes as f64).log2() * 0.7;
        let style = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"{thick:.1}\" stroke-opacity=\"0.8\"");
        let (ca, cb) = (a.x + a.w / 2.0, b.x + b.w / 2.0);
        if (a.y - b.y).abs() < 1.0 {
            let near = (ca - cb).abs() < BOX.0 + GAP * 4.0
                && !matches!(net.topology.groups[net.parts[a.part].group].role, Role::Device(_));
            let path = if near {
                format!("M {:.1} {:.1} H {:.1}", ca.min(cb) + a.w / 2.0, a.y + BOX.1 / 2.0, ca.max(cb) - b.w / 2.0)
            } else {
                let sag = 18.0 + (ca - cb).abs() * 0.11;
                let y = a.y + BOX.1;
                format!("M {ca:.1} {y:.1} C {ca:.1} {:.1}, {cb:.1} {:.1}, {cb:.1} {y:.1}", y + sag, y + sag)
            };
            let _ = writeln!(out, "<path d=\"{path}\" {style}/>");
            continue;
        }
        // A bar takes wires anywhere along it, straight from the other's middle.
        let (upper, lower) = if a.y < b.y { (a, b) } else { (b, a) };
        let meet = |of: &Shape, other: &Shape| {
            if of.w > BOX.0 * 1.5 {
                (other.x + other.w / 2.0).clamp(of.x + 6.0, of.x + of.w - 6.0)
            } else {
                of.x + of.w / 2.0
            }
        };
        let (x1, x2) = (meet(upper, lower), meet(lower, upper));
        let (y1, y2) = (upper.y + BOX.1, lower.y);
        let half = (y1 + y2) / 2.0;
        let _ = writeln!(
            out,
            "<path d=\"M {x1:.1} {y1:.1} C {x1:.1} {half:.1}, {x2:.1} {half:.1}, {x2:.1} {y2:.1}\" {style}/>"
        );
    }
}

fn boxes(out: &mut String, net: &Net, shapes: &[Shape]) {
    for s in shapes {
        let p = &net.parts[s.part];
        let g = &net.topology.groups[p.group];
        let (fill, stroke, note) = match &g.role {
            Role::Device(d) => ("#dcebf9", "#2a6fbb", d.memory.to_string()),
            Role::Switch { reduction: true } => ("#fde8d8", "#c2571a", "sums in the switch".into()),
            Role::Switch { reduction: false } => ("#fde8d8", "#c2571a", String::new()),
            Role::Host => ("#e6f2e6", "#3d8b40", "host".into()),
            Role::Nic => ("#efe3f3", "#8a3fa0", "NIC".into()),
        };
        let more = if p.index + 1 == MOST_DRAWN && g.count > MOST_DRAWN {
            format!(" +{}", g.count - MOST_DRAWN)
        } else {
            String::new()
        };
        let name = if g.count > 1 { format!("{}{}{more}", g.name, p.index) } else { g.name.clone() };
        let (middle, y) = (s.x + s.w / 2.0, s.y);
        let (size, small) = if s.w < 60.0 { (11.0, 8.5) } else { (13.0, 10.5) };
        let _ = writeln!(
            out,
            "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" rx=\"6\" fill=\"{fill}\" stroke=\"{stroke}\"/>",
            s.x, s.w, BOX.1
        );
        let first = if note.is_empty() { y + 24.5 } else { y + 17.5 };
        let _ = writeln!(
            out,
            "<text x=\"{middle:.1}\" y=\"{first:.1}\" font-size=\"{size}\" text-anchor=\"middle\" fill=\"#1c2733\">{}</text>",
            escaped(&name)
        );
        if !note.is_empty() {
            let _ = writeln!(
                out,
                "<text x=\"{middle:.1}\" y=\"{:.1}\" font-size=\"{small}\" text-anchor=\"middle\" fill=\"#5a6b7a\">{}</text>",
                y + 32.0,
                escaped(&note)
            );
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
