//! The one loop that maps a graph to a graph.

use super::{Graph, Hint, Source};
use crate::base::Result;
use crate::op::{Build, Value};
use std::collections::HashMap;

/// What becomes of a node.
pub enum Rewritten {
    /// The same over the new operands.
    Same,
    /// Nothing: no node that stays uses it, and no output is it.
    Gone,
    /// This value of the new graph.
    As(Value),
}

/// The new value of each node that was met and stays.
pub type Renamed = HashMap<Value, Value>;

impl Graph {
    /// A graph node by node in this one's order: `each` says what becomes of a node, and may add others before it. Places,
    /// layers, outputs and hints come along.
    ///
    /// # Errors
    /// Those of `each`, and operands that do not fit an op any more.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn rewrite(&self, mut each: impl FnMut(&mut Graph, Value, &Renamed) -> Result<Rewritten>) -> Result<Graph> {
        let mut out = Graph::default();
        let mut map = Renamed::new();
        for v in self.values() {
            let node = self.node(v);
            out.set_place(node.name.clone());
            out.set_layer(node.layer);
            let new = match each(&mut out, v, &map)? {
                Rewritten::Gone => continue,
                Rewritten::As(new) => new,
                Rewritten::Same => match &node.source {
                    Source::Op { def, attrs, args } => {
                        let args: Vec<Value> = args.iter().map(|a| map[a]).collect();
                        out.apply(def, attrs.clone(), &args)?
                    }
                    Source::Const(x) => out.constant(*x),
                    source => out.push(source.clone(), node.ty.clone(), node.name.clone()),
                },
            };
            map.insert(v, new);
        }
        out.outputs = self.outputs.iter().map(|(n, v)| (n.clone(), map[v])).collect();
        out.hints =
            self.hints.iter().filter_map(|h| map.get(&h.value).map(|v| Hint { value: *v, ..h.clone() })).collect();
        Ok(out)
    }
}
