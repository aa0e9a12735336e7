//! Pipeline stages: which layers go where, and the part of a graph that one stage runs.

use crate::base::{Combine, Cut, Dim, Error, MeshAxis, Result, Type};
use crate::graph::{Graph, Source};
use crate::op::{ASSIGN, Attrs, BROADCAST_FROM, Build, Collective, RECEIVE, SEND, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The stage of each layer: runs of whole layers, so that the slowest stage is as quick as can be.
///
/// # Errors
/// Fewer layers than stages.
pub fn balance(graph: &Graph, stages: usize) -> Result<BTreeMap<u32, usize>> {
    let mut cost: BTreeMap<u32, f64> = BTreeMap::new();
    for node in &graph.nodes {
        if let Source::Op { def, attrs, args } = &node.source {
            let types: Vec<Type> = args.iter().map(|a| graph.node(*a).ty.clone()).collect();
            *cost.entry(node.layer).or_default() += (def.cost)(attrs, &types, &node.ty).bound() as f64 + 1.0;
        }
    }
    let layers: Vec<u32> = cost.keys().copied().collect();
    let costs: Vec<f64> = cost.values().copied().collect();
    if layers.len() < stages {
        return Err(Error::usage(format!(
            "pp={stages} needs {stages} layers or more, this graph has {}: choose pp up to {}",
            layers.len(),
            layers.len().max(1)
        )));
    }
    // The least bound under which a greedy walk needs no more stages than there are.
    let fits = |bound: f64| {
        let mut cuts = vec![0];
        let mut sum = 0.0;
        for (i, c) in costs.iter().enumerate() {
            if sum + c > bound && sum > 0.0 {
                cuts.push(i);
                sum = 0.0;
            }
            sum += c;
        }
        cuts
    };
    let total: f64 = costs.iter().sum();
    let (mut low, mut high) = (costs.iter().cloned().fold(0.0, f64::max), total);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if fits(middle).len() <= stages { high = middle } else { low = middle }
    }
    let mut cuts = fits(high);
    // A bound may leave stages over: the longest runs are halved.
    while cuts.len() < stages {
        let ends = cuts.iter().skip(1).copied().chain([layers.len()]);
        let longest = cuts.iter().copied().zip(ends).max_by_key(|(a, b)| b - a).unwrap_or((0, layers.len()));
        cuts.push((longest.0 + longest.1).div_ceil(2));
        cuts.sort_unstable();
    }
    Ok(layers.iter().enumerate().map(|(i, l)| (*l, cuts.iter().filter(|c| **c <= i).count() - 1)).collect())
}

/// The part of `graph` that `stage` runs: its layers, what it receives from other stages and sends to them. What goes
/// back, as gradients do, goes the same way: every stage keeps to the order of the whole graph.
/// Values that are made of sources alone are made anew where they are needed.
pub fn cut(graph: &Graph, stage_of: &BTreeMap<u32, usize>, stage: usize, stages: usize) -> Result<Graph> {
    let home: Vec<usize> = graph.nodes.iter().map(|n| stage_of.get(&n.layer).copied().unwrap_or(0)).collect();
    let plain = plain(graph);
    let crossings = crossings(graph, &home, &plain);
    let mut c = Cutter { graph, out: Graph::default(), map: HashMap::new(), stages };
    for v in graph.values() {
        let node = graph.node(v);
        c.out.set_place(node.name.clone());
        c.out.set_layer(node.layer);
        let i = v.0 as usize;
        if home[i] == stage && !plain[i] {
            for a in node.args() {
                c.bring(*a, &plain)?;
            }
            c.copy(v)?;
        } else if home[i] != stage && crossings.contains(&(v, stage)) {
            c.receive(v, home[i], stage)?;
        }
        if home[i] == stage {
            for (_, to) in crossings.range((v, 0)..=(v, usize::MAX)) {
                c.send(v, *to)?;
            }
        }
    }
    c.outputs(&home, stage, &plain)?;
    Ok(c.out)
}

/// Nodes made of sources alone, without a weight's product: views of tables, counts. A state that is assigned belongs to
/// one stage: the others get its contents from there.
fn plain(graph: &Graph) -> Vec<bool> {
    let assigned: BTreeSet<Value> =
        graph.nodes.iter().filter(|n| n.def().is_some_and(|d| d.is(&ASSIGN))).map(|n| n.args()[0]).collect();
    let mut plain = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        plain[i] = match &node.source {
            Source::State => !assigned.contains(&Value(i as u32)),
            Source::Op { .. } => {
                node.is_view() && node.args().iter().all(|a| plain[a.0 as usize]) || node.kind() == "iota"
            }
            _ => true,
        };
    }
    plain
}

/// (value, stage that needs it from another stage).
fn crossings(graph: &Graph, home: &[usize], plain: &[bool]) -> BTreeSet<(Value, usize)> {
    let mut seen = BTreeSet::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        for a in node.args() {
            let from = a.0 as usize;
            if !plain[from] && !plain[i] && home[from] != home[i] {
                seen.insert((*a, home[i]));
            }
        }
    }
    seen
}

struct Cutter<'a> {
    graph: &'a Graph,
    out: Graph,
    map: HashMap<Value, Value>,
    stages: usize,
}

impl Cutter<'_> {
    /// Makes a value that is made of sources alone.
    fn bring(&mut self, v: Value, plain: &[bool]) -> Result<()> {
        if self.map.contains_key(&v) || !plain[v.0 as usize] {
            return Ok(());
        }
        for a in self.graph.node(v).args() {
            self.bring(*a, plain)?;
        }
        self.copy(v)
    }

    fn copy(&mut self, v: Value) -> Result<()> {
        let node = self.graph.node(v);
        let new = match &node.source {
            Source::Op { def, attrs, args } => {
                let args = args.iter().map(|a| self.found(*a)).collect::<Result<Vec<_>>>()?;
                self.out.apply(def, attrs.clone(), &args)?
            }
            Source::Const(x) => self.out.constant(*x),
            source => self.out.push(source.clone(), node.ty.clone(), node.name.clone()),
        };
        self.map.insert(v, new);
        Ok(())
    }

    fn found(&self, v: Value) -> Result<Value> {
        let name = &self.graph.node(v).name;
        self.map
            .get(&v)
            .copied()
            .ok_or_else(|| Error::op("shard", name, "is needed by a stage that neither makes nor receives it"))
    }

    fn how(&self, v: Value, peer: usize, tag: u32) -> Attrs {
        let to = self.graph.node(v).ty.clone();
        let rows = to.shape.first().copied().unwrap_or(Dim::new(1));
        let c = Collective {
            over: MeshAxis::Pipeline,
            ways: self.stages,
            combine: Combine::Sum,
            cut: Cut::ONES,
            rows,
            to,
            peer,
            tag,
            other: None,
        };
        Attrs::Collective(Box::new(c))
    }

    /// One number for a value and its receiver, whatever stage computes it; above those of other collectives.
    fn tag(&self, v: Value, to: usize) -> u32 {
        (1 << 24) + v.0 * self.stages as u32 + to as u32
    }

    fn send(&mut self, v: Value, to: usize) -> Result<()> {
        let attrs = self.how(v, to, self.tag(v, to));
        let x = self.found(v)?;
        self.out.apply(&SEND, attrs, &[x]).map(drop)
    }

    fn receive(&mut self, v: Value, from: usize, stage: usize) -> Result<()> {
        let attrs = self.how(v, from, self.tag(v, stage));
        let y = self.out.apply(&RECEIVE, attrs, &[])?;
        self.map.insert(v, y);
        Ok(())
    }

    /// Every stage has every output: the stage that makes it gives it to all.
    fn outputs(&mut self, home: &[usize], stage: usize, plain: &[bool]) -> Result<()> {
        self.out.set_place("output");
        for (n, (name, v)) in self.graph.outputs.iter().enumerate() {
            let root = home[v.0 as usize];
            if root == stage {
                self.bring(*v, plain)?;
            }
            let attrs = self.how(*v, root, (1 << 30) + n as u32);
            let args = if root == stage { vec![self.found(*v)?] } else { vec![] };
            let y = self.out.apply(&BROADCAST_FROM, attrs, &args)?;
            self.out.output(name, y)?;
        }
        Ok(())
    }
}
