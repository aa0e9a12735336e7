//! Gradients: the reverse pass, written into the graph that it differentiates.
//!
//! From the last node to the first each op's gradient rule ([`crate::op::Grad`]) carries the gradient of its result to
//! its operands, where they add up. A composite without a rule is differentiated through its definition, which is
//! written out again for that: its forward kernel keeps nothing of what lies between.

use super::Graph;
use crate::base::{DType, Error, Result};
use crate::op::{ADD, Attrs, BROADCAST, Body, Build, Grad, OpDef, Pull, Value};
use std::collections::HashMap;

/// A reverse pass under way.
struct Tape<'a> {
    graph: &'a mut Graph,
    /// Whether a node lies between what is asked for and the loss.
    needs: Vec<bool>,
    /// Gradients so far.
    up: HashMap<Value, Value>,
}

impl Graph {
    /// Adds the gradient of `loss` in each of `wrt`: f32, of their shapes. The loss is one f32 element; on ranks of a
    /// mesh what is differentiated is the sum of all ranks' losses.
    ///
    /// # Errors
    /// A loss of several elements; a value of whole numbers, truth or quantised blocks; a value that the loss does not
    /// depend on through ops that have gradients.
    pub fn gradients(&mut self, loss: Value, wrt: &[Value]) -> Result<Vec<Value>> {
        self.check_gradients(loss, wrt)?;
        let (place, layer) = (self.place.clone(), self.layer);
        let end = self.nodes.len();
        let mut tape = Tape { graph: self, needs: vec![], up: HashMap::new() };
        tape.grow(0, wrt);
        let seed = tape.filled(loss, 1.0)?;
        tape.up.insert(loss, seed);
        tape.back(0, end)?;
        let up = tape.up;
        self.set_place(place);
        self.set_layer(layer);
        wrt.iter().map(|w| up.get(w).copied().ok_or_else(|| self.unreached(*w))).collect()
    }

    /// Carries `seed`, the gradient of `y`, back through the nodes of a range only: the gradient in each of `wrt`, none where `y`
    /// does not depend on it through them. What `wrt` and `seed` are made of is left alone.
    ///
    /// # Errors
    /// Those of the ops' gradient rules.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn pullback(
        &mut self,
        (y, seed): (Value, Value),
        wrt: &[Value],
        nodes: std::ops::Range<usize>,
    ) -> Result<Vec<Option<Value>>> {
        let (place, layer) = (self.place.clone(), self.layer);
        let mut tape = Tape { graph: self, needs: vec![false; nodes.start], up: HashMap::new() };
        for w in wrt {
            if let Some(needs) = tape.needs.get_mut(w.0 as usize) {
                *needs = true;
            }
        }
        tape.grow(nodes.start, wrt);
        tape.up.insert(y, seed);
        tape.back(nodes.start, nodes.end)?;
        let up = tape.up;
        self.set_place(place);
        self.set_layer(layer);
        Ok(wrt.iter().map(|w| up.get(w).copied()).collect())
    }

    fn check_gradients(&self, loss: Value, wrt: &[Value]) -> Result<()> {
        let node = self.node(loss);
        if node.ty.dtype != DType::F32 || !node.ty.shape.count().is(1) {
            return Err(Error::op(
                "gradients",
                &node.name,
                format!("the loss is {}, it must be one f32 element: sum it or take its mean", node.ty),
            ));
        }
        if let Some(w) = wrt.iter().map(|w| self.node(*w)).find(|w| !has_slope(w.ty.dtype)) {
            return Err(Error::op(
                "gradients",
                &w.name,
                format!("is {}, only f32 and f16 values have a gradient", w.ty),
            ));
        }
        Ok(())
    }

    /// Why no gradient came to `w`.
    fn unreached(&self, w: Value) -> Error {
        let mut from = vec![false; self.nodes.len()];
        from[w.0 as usize] = true;
        let mut blocked = None;
        for (i, node) in self.nodes.iter().enumerate().skip(w.0 as usize + 1) {
            from[i] = node.args().iter().any(|a| from[a.0 as usize]);
            if let (true, None, Some(Grad::None(why))) = (from[i], blocked, node.def().map(|d| &d.grad)) {
                blocked = Some((node.kind(), &node.name, why));
            }
        }
        let through = blocked.map_or(String::new(), |(op, name, why)| format!("; {op} \"{name}\" has none, {why}"));
        Error::op(
            "gradients",
            &self.node(w).name,
            format!("the loss does not depend on it through ops that have a gradient{through}"),
        )
    }
}

fn has_slope(dtype: DType) -> bool {
    dtype.is_real()
}

impl Tape<'_> {
    /// Marks the nodes from `start` on that `wrt`, or a marked node, leads to. What other ranks give is marked, too.
    fn grow(&mut self, start: usize, wrt: &[Value]) {
        self.needs.resize(start, false);
        for (i, node) in self.graph.nodes.iter().enumerate().skip(start) {
            let asked = wrt.contains(&Value(i as u32))
                || node.args().iter().any(|a| self.needs[a.0 as usize])
                || exchanges(node.def());
            self.needs.push(asked && has_slope(node.ty.dtype));
        }
    }

    /// `x` in every element of a value's shape.
    fn filled(&mut self, v: Value, x: f32) -> Result<Value> {
        let shape = self.graph.node(v).ty.shape.clone();
        let x = self.graph.constant(x);
        if shape.rank() == 0 { Ok(x) } else { self.graph.apply(&BROADCAST, Attrs::Shape(shape), &[x]) }
    }

    /// Carries gradients from the nodes before `end` back to `start`.
    fn back(&mut self, start: usize, end: usize) -> Result<()> {
        for i in (start..end).rev() {
            let v = Value(i as u32);
            let node = self.graph.nodes[i].clone();
            let super::Source::Op { def, attrs, args } = &node.source else { continue };
            if !self.needs[i] {
                continue;
            }
            self.graph.set_place(node.name.clone());
            self.graph.set_layer(node.layer);
            let up = match self.up.get(&v) {
                Some(up) => *up,
                // The other ranks run the way back of an exchange: so does this one.
                None if exchanges(Some(def)) => self.filled(v, 0.0)?,
                None => continue,
            };
            match &def.grad {
                Grad::None(_) => {}
                Grad::Definition => self.through(def, attrs, args, up)?,
                Grad::Rule(rule) => {
                    let wants: Vec<bool> = args.iter().map(|a| self.needs[a.0 as usize]).collect();
                    let pull = Pull { attrs, args, out: v, up, wants: &wants };
                    let made = rule(self.graph, &pull).map_err(|e| e.at_node(&node.name))?;
                    for (a, g) in args.iter().zip(made) {
                        self.add(*a, g)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Through a composite's definition.
    fn through(&mut self, def: &OpDef, attrs: &Attrs, args: &[Value], up: Value) -> Result<()> {
        let Body::Composite { define, .. } = &def.body else {
            return Err(Error::op(def.name, "", "has no definition to be differentiated"));
        };
        let start = self.graph.nodes.len();
        let root = define(self.graph, attrs, args)?;
        self.grow(start, &[]);
        self.up.insert(root, up);
        self.back(start, self.graph.nodes.len())
    }

    fn add(&mut self, v: Value, g: Option<Value>) -> Result<()> {
        let Some(g) = g.filter(|_| self.needs[v.0 as usize]) else { return Ok(()) };
        let sum = match self.up.get(&v) {
            Some(before) => self.graph.apply(&ADD, Attrs::None, &[*before, g])?,
            None => g,
        };
        self.up.insert(v, sum);
        Ok(())
    }
}

/// Whether other ranks take part.
fn exchanges(def: Option<&'static OpDef>) -> bool {
    def.is_some_and(|d| matches!(d.body, Body::Collective(_)))
}
