//! Machine files: TOML, every figure with its unit. Errors name the file, the line and the numbers.

use super::machine::{Device, Group, Link, Precision, Role, Scope, Topology};
use super::net::Net;
use super::{MOST_DEVICES, MOST_NODES, MOST_WIRES};
use crate::base::units::{Bytes, BytesPerSecond, FlopsPerSecond, PricePerHour, Seconds, Watts};
use crate::base::{Error, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

type Sections<T> = BTreeMap<String, Spanned<T>>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    title: String,
    #[serde(default = "one")]
    nodes: Spanned<usize>,
    nodes_per_rack: Option<Spanned<usize>>,
    #[serde(default)]
    devices: Sections<DeviceText>,
    #[serde(default)]
    switches: Sections<PartText>,
    #[serde(default)]
    hosts: Sections<PartText>,
    #[serde(default)]
    nics: Sections<PartText>,
    #[serde(default)]
    links: Vec<Spanned<LinkText>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceText {
    #[serde(default = "single")]
    count: usize,
    #[serde(default)]
    title: String,
    peak: Peak,
    memory: Bytes,
    bandwidth: BytesPerSecond,
    idle: Watts,
    limit: Watts,
    price: Option<PricePerHour>,
    constants: Option<String>,
    #[serde(default)]
    source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Peak {
    fp64: Option<FlopsPerSecond>,
    fp32: Option<FlopsPerSecond>,
    tf32: Option<FlopsPerSecond>,
    fp16: Option<FlopsPerSecond>,
    bf16: Option<FlopsPerSecond>,
    fp8: Option<FlopsPerSecond>,
    int8: Option<FlopsPerSecond>,
    fp4: Option<FlopsPerSecond>,
}

impl Peak {
    fn list(&self) -> Vec<(Precision, FlopsPerSecond)> {
        use Precision::*;
        let all = [
            (Fp64, self.fp64),
            (Fp32, self.fp32),
            (Tf32, self.tf32),
            (Fp16, self.fp16),
            (Bf16, self.bf16),
            (Fp8, self.fp8),
            (Int8, self.int8),
            (Fp4, self.fp4),
        ];
        all.into_iter().filter_map(|(p, rate)| Some((p, rate?))).collect()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartText {
    #[serde(default = "single")]
    count: usize,
    /// node (the default), rack or cluster.
    scope: Option<ScopeText>,
    /// Switches only.
    reduction: Option<bool>,
    #[serde(default)]
    source: String,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ScopeText {
    Node,
    Rack,
    Cluster,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkText {
    from: String,
    to: String,
    kind: String,
    #[serde(default = "single_lane")]
    lanes: u32,
    bandwidth: BytesPerSecond,
    latency: Seconds,
    /// `[0, 1, 2]`: parts 0 and 1 have two lanes between them.
    #[serde(default)]
    pairs: Vec<(usize, usize, u32)>,
    #[serde(default)]
    source: String,
}

fn one() -> Spanned<usize> {
    Spanned::new(0..0, 1)
}
fn single() -> usize {
    1
}
fn single_lane() -> u32 {
    1
}

/// Where in a file: turns a byte offset into `path:line`.
struct Place<'a> {
    path: &'a str,
    text: &'a str,
}

impl Place<'_> {
    fn line(&self, at: usize) -> usize {
        self.text.get(..at).map_or(1, |before| before.matches('\n').count() + 1)
    }
    fn error(&self, at: usize, what: impl Into<String>) -> Error {
        Error::file(format!("{}:{}", self.path, self.line(at)), what)
    }
    fn require(&self, ok: bool, at: usize, what: impl FnOnce() -> String) -> Result<()> {
        if ok { Ok(()) } else { Err(self.error(at, what())) }
    }
}

/// The largest machine file that is read: real ones are a few KiB.
const MOST_BYTES: usize = 256 << 10;

/// Reads a machine from the text of a file at `path` (only its name is used). Beside what TOML and the units refuse:
/// no devices, counts of nothing, figures at or below zero, links to nowhere, to themselves or named twice, loops
/// among switches, devices that cannot reach each other.
pub fn read(path: &str, text: &str) -> Result<Topology> {
    let place = Place { path, text };
    place.require(text.len() <= MOST_BYTES, 0, || {
        format!("has {} bytes, a machine file has at most {MOST_BYTES}", text.len())
    })?;
    let parsed: Result<File, toml::de::Error> = toml::from_str(text);
    let file = parsed.map_err(|e| place.error(e.span().map_or(0, |s| s.start), e.message().replace('\n', ", ")))?;
    let mut groups = vec![];
    let mut starts = vec![];
    for (name, d) in &file.devices {
        groups.push(device(&place, name, d)?);
        starts.push(d.span().start);
    }
    place.require(!groups.is_empty(), 0, || {
        format!("machine \"{}\" has no devices: it needs a [devices.NAME] section", file.name)
    })?;
    let parts = [("switch", &file.switches), ("host", &file.hosts), ("nic", &file.nics)];
    for (what, name, p) in parts.into_iter().flat_map(|(what, all)| all.iter().map(move |(n, p)| (what, n, p))) {
        groups.push(part(&place, what, name, p, file.nodes_per_rack.is_some())?);
        starts.push(p.span().start);
    }
    for (i, g) in groups.iter().enumerate() {
        if let Some(first) = groups[..i].iter().position(|o| o.name == g.name) {
            return Err(place.error(
                starts[i],
                format!("there are two parts named \"{}\", the other is on line {}", g.name, place.line(starts[first])),
            ));
        }
    }
    let links = file.links.iter().map(|l| link(&place, &groups, l)).collect::<Result<Vec<_>>>()?;
    let count = |n: &Spanned<usize>, what: &str| {
        let good = (1..=MOST_NODES).contains(n.get_ref());
        place
            .require(good, n.span().start, || format!("{what} is {}, must be 1 to {MOST_NODES}", n.get_ref()))
            .map(|_| *n.get_ref())
    };
    let nodes = count(&file.nodes, "nodes")?;
    let rack = file.nodes_per_rack.as_ref().map(|r| count(r, "nodes_per_rack")).transpose()?;
    let pairs = |l: &Link| groups[l.from].count * groups[l.to].count;
    place.require(links.iter().map(pairs).sum::<usize>() <= MOST_WIRES, 0, || {
        format!("more than {MOST_WIRES} pairs of parts are linked in a node")
    })?;
    let out = Topology { name: file.name.clone(), title: file.title, nodes, rack, groups, links };
    let lines: Vec<usize> = file.links.iter().map(|l| l.span().start).collect();
    whole(&place, &out, &lines, &starts)?;
    Ok(out)
}

fn device(place: &Place, name: &str, text: &Spanned<DeviceText>) -> Result<Group> {
    let (d, at) = (text.get_ref(), text.span().start);
    let positive = |what: &str, v: f64, shown: String| {
        place.require(v > 0.0, at, || format!("device {name}: {what} is {shown}, must be above zero"))
    };
    positive("memory", d.memory.0, d.memory.to_string())?;
    positive("bandwidth", d.bandwidth.0, d.bandwidth.to_string())?;
    positive("limit", d.limit.0, d.limit.to_string())?;
    let peak = d.peak.list();
    place.require(!peak.is_empty(), at, || {
        format!("device {name}: peak names no rate, such as fp16 = \"312TFLOP/s\"")
    })?;
    for (p, rate) in &peak {
        positive(&format!("peak {}", p.name()), rate.0, rate.to_string())?;
    }
    place.require(d.idle.0 >= 0.0 && d.idle <= d.limit, at, || {
        format!("device {name}: idle is {}, must be from 0 to the limit of {}", d.idle, d.limit)
    })?;
    place.require(d.price.is_none_or(|p| p.0 >= 0.0), at, || format!("device {name}: price is below zero"))?;
    counted(place, at, name, d.count)?;
    let title = if d.title.is_empty() { name.to_string() } else { d.title.clone() };
    let device = Device {
        title,
        peak,
        memory: d.memory,
        bandwidth: d.bandwidth,
        idle: d.idle,
        limit: d.limit,
        price: d.price,
        constants: d.constants.clone(),
        source: d.source.clone(),
    };
    Ok(Group {
        name: name.into(),
        count: d.count,
        scope: Scope::Node,
        role: Role::Device(Box::new(device)),
        source: d.source.clone(),
    })
}

fn counted(place: &Place, at: usize, name: &str, count: usize) -> Result<()> {
    place.require((1..=MOST_DEVICES).contains(&count), at, || {
        format!("{name}: count is {count}, must be 1 to {MOST_DEVICES}")
    })
}

fn part(place: &Place, what: &str, name: &str, text: &Spanned<PartText>, racks: bool) -> Result<Group> {
    let (p, at) = (text.get_ref(), text.span().start);
    counted(place, at, name, p.count)?;
    place.require(p.reduction.is_none() || what == "switch", at, || {
        format!("{name}: only switches have reduction, this is a {what}")
    })?;
    let scope = match p.scope.unwrap_or(ScopeText::Node) {
        ScopeText::Node => Scope::Node,
        ScopeText::Rack => Scope::Rack,
        ScopeText::Cluster => Scope::Cluster,
    };
    place.require(scope != Scope::Rack || racks, at, || {
        format!("{name}: scope is rack, but the machine has no nodes_per_rack")
    })?;
    let role = match what {
        "switch" => Role::Switch { reduction: p.reduction.unwrap_or(false) },
        "host" => Role::Host,
        _ => Role::Nic,
    };
    Ok(Group { name: name.into(), count: p.count, scope, role, source: p.source.clone() })
}

fn link(place: &Place, groups: &[Group], text: &Spanned<LinkText>) -> Result<Link> {
    let (l, at) = (text.get_ref(), text.span().start);
    let name = format!("link {} – {}", l.from, l.to);
    let find = |end: &str| {
        let known = || groups.iter().map(|g| g.name.as_str()).collect::<Vec<_>>().join(", ");
        let one = |g: &Group| end.strip_prefix(g.name.as_str()).and_then(|i| i.parse().ok()).filter(|i| *i < g.count);
        let whole = groups.iter().position(|g| g.name == end).map(|at| (at, None));
        let found = whole.or_else(|| groups.iter().enumerate().find_map(|(at, g)| Some((at, Some(one(g)?)))));
        found.ok_or_else(|| place.error(at, format!("{name}: there is no part \"{end}\": there are {}", known())))
    };
    let ((from, only_from), (to, only_to)) = (find(&l.from)?, find(&l.to)?);
    let only = [only_from, only_to];
    place.require(l.bandwidth.0 > 0.0, at, || format!("{name}: bandwidth is {}, must be above zero", l.bandwidth))?;
    place.require(l.latency.0 >= 0.0, at, || format!("{name}: latency is {}, must not be below zero", l.latency))?;
    place.require(l.lanes > 0, at, || format!("{name}: lanes is 0, must be 1 or more"))?;
    let (a, b) = (groups[from].count, groups[to].count);
    if from == to && only != [None, None] {
        place.require(only[0].is_some() && only[1].is_some() && only[0] != only[1], at, || {
            format!("{name}: is a loop, or one part to all of its own: name two parts")
        })?;
    } else if from == to {
        place.require(a > 1, at, || format!("{name}: is a loop, {} is one part", l.from))?;
        let bad = l.pairs.iter().find(|p| p.0 >= a || p.1 >= a || p.0 == p.1 || p.2 == 0);
        place.require(bad.is_none(), at, || {
            format!("{name}: pair {bad:?} is not two of parts 0 to {} and a number of lanes", a - 1)
                .replace("Some(", "")
                .replace(") is", " is")
        })?;
        let key = |p: &(usize, usize, u32)| (p.0.min(p.1), p.0.max(p.1));
        let twice = l.pairs.iter().enumerate().find(|(i, p)| l.pairs[..*i].iter().any(|o| key(o) == key(p)));
        place.require(twice.is_none(), at, || {
            format!("{name}: parts {} and {} are paired twice", twice.map_or(0, |t| t.1.0), twice.map_or(0, |t| t.1.1))
        })?;
    } else {
        place.require(l.pairs.is_empty(), at, || format!("{name}: pairs are for links within one group"))?;
        place.require(only != [None, None] || a % b == 0 || b % a == 0, at, || {
            format!("{name}: {a} {} and {b} {} do not divide", l.from, l.to)
        })?;
    }
    Ok(Link {
        from,
        to,
        only,
        kind: l.kind.clone(),
        lanes: l.lanes,
        lane: l.bandwidth,
        latency: l.latency,
        pairs: l.pairs.clone(),
        source: l.source.clone(),
    })
}

/// What can only be told of the whole: links named twice, loops among switches and hosts, devices out of reach.
fn whole(place: &Place, t: &Topology, lines: &[usize], starts: &[usize]) -> Result<()> {
    let key = |l: &Link| if l.from <= l.to { (l.from, l.to, l.only) } else { (l.to, l.from, [l.only[1], l.only[0]]) };
    for (i, l) in t.links.iter().enumerate() {
        if let Some(first) = t.links[..i].iter().position(|o| key(o) == key(l)) {
            let (from, to) = (&t.groups[l.from].name, &t.groups[l.to].name);
            return Err(place.error(
                lines[i],
                format!(
                    "link {from} – {to} is given twice, first on line {}: say lanes instead",
                    place.line(lines[first])
                ),
            ));
        }
    }
    let mut nodes = vec![0, 1, t.rack.unwrap_or(1).max(2)];
    nodes.retain(|n| *n < t.nodes);
    let net = Net::new(t, &nodes);
    if let Some((wire, a, b)) = first_loop(&net) {
        return Err(place.error(
            lines[net.wires[wire].link],
            format!("a loop: {} and {} are already connected through other switches", net.name(a), net.name(b)),
        ));
    }
    let devices = net.devices();
    let seen = net.reached(devices[0]);
    if let Some(lost) = devices.iter().find(|d| !seen[**d]) {
        let what = format!("{} cannot be reached from {}: no link leads there", net.name(*lost), net.name(devices[0]));
        return Err(place.error(starts[net.parts[*lost].group], what));
    }
    Ok(())
}

/// A wire between switches or hosts that others connect already: there a message would have two ways around.
fn first_loop(net: &Net) -> Option<(usize, usize, usize)> {
    let inner = |p: usize| matches!(net.topology.groups[net.parts[p].group].role, Role::Switch { .. } | Role::Host);
    let mut set: Vec<usize> = (0..net.parts.len()).collect();
    fn root(set: &mut [usize], mut i: usize) -> usize {
        while set[i] != i {
            set[i] = set[set[i]];
            i = set[i];
        }
        i
    }
    for (at, wire) in net.wires.iter().enumerate().filter(|(_, w)| w.ends.iter().all(|e| inner(*e))) {
        let (a, b) = (root(&mut set, wire.ends[0]), root(&mut set, wire.ends[1]));
        if a == b {
            return Some((at, wire.ends[0], wire.ends[1]));
        }
        set[a] = b;
    }
    None
}
