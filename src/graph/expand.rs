//! Composites written out as their definitions.

use super::{Graph, Rewritten, Source};
use crate::base::{DType, Result};
use crate::op::{Attrs, Body, Build, CAST, OpDef, Value};

impl Graph {
    /// The same graph with every composite that `keep` does not want replaced by its definition, all the way down,
    /// and without nodes that no output and no state depends on.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn expand(&self, keep: &dyn Fn(&OpDef) -> bool) -> Result<Graph> {
        self.expand_for(keep, &|_, _| false)
    }

    /// The same for kernels of which some read operands in whatever floats those are kept: `reads` says which of an op's.
    pub fn expand_for(&self, keep: &dyn Fn(&OpDef) -> bool, reads: &dyn Fn(&OpDef, usize) -> bool) -> Result<Graph> {
        let live = self.live();
        self.rewrite(|out, v, map| {
            let Source::Op { def, attrs, args } = &self.node(v).source else {
                return Ok(if live[v.0 as usize] { Rewritten::Same } else { Rewritten::Gone });
            };
            if !live[v.0 as usize] {
                return Ok(Rewritten::Gone);
            }
            let args: Vec<Value> = args.iter().map(|a| map[a]).collect();
            Expander { graph: out, keep, reads }.apply(def, attrs.clone(), &args).map(Rewritten::As)
        })
    }

    /// Which nodes an output or a state's write depends on; sources that are named stay, and collectives, for which other
    /// ranks wait.
    fn live(&self) -> Vec<bool> {
        let mut live: Vec<bool> = self
            .nodes
            .iter()
            .map(|n| {
                matches!(n.source, Source::Input | Source::State)
                    || n.writes()
                    || n.def().is_some_and(|d| matches!(d.body, Body::Collective(_)))
            })
            .collect();
        self.outputs.iter().for_each(|(_, v)| live[v.0 as usize] = true);
        for i in (0..self.nodes.len()).rev() {
            if live[i] {
                self.nodes[i].args().iter().for_each(|a| live[a.0 as usize] = true);
            }
        }
        live
    }
}

/// Adds ops to a graph, writing composites out as it meets them.
struct Expander<'a> {
    graph: &'a mut Graph,
    keep: &'a dyn Fn(&OpDef) -> bool,
    reads: &'a dyn Fn(&OpDef, usize) -> bool,
}

impl Expander<'_> {
    fn widened(&mut self, v: Value) -> Result<Value> {
        if !self.graph.ty(v).dtype.is_narrow() {
            return Ok(v);
        }
        self.graph.apply(&CAST, Attrs::Cast(DType::F32), &[v])
    }
}

impl Build for Expander<'_> {
    fn apply(&mut self, def: &'static OpDef, attrs: Attrs, args: &[Value]) -> Result<Value> {
        match &def.body {
            Body::Composite { define, .. } if !(self.keep)(def) => define(self, &attrs, args),
            Body::Composite { .. } => {
                // Other kernels of whole composites read f32.
                let widened = |(i, a): (usize, &Value)| if (self.reads)(def, i) { Ok(*a) } else { self.widened(*a) };
                let args = args.iter().enumerate().map(widened).collect::<Result<Vec<_>>>()?;
                self.graph.apply(def, attrs, &args)
            }
            _ => self.graph.apply(def, attrs, args),
        }
    }
    fn ty(&self, v: Value) -> crate::base::Type {
        self.graph.ty(v)
    }
    fn constant(&mut self, x: f32) -> Value {
        self.graph.constant(x)
    }
}
