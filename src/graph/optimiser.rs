//! Training: parameters as states, and the optimisers that update them at the end of a step.
//!
//! What lies where is stated as for any other graph ([`Hint`](super::Hint)): along the data axis ZeRO (Rajbhandari et
//! al., 2020) splits moments, then gradients, then the parameters themselves; the sharding pass puts in the collectives.

use super::{GraphBuilder, Tensor};
use crate::base::{Cut, DType, Dim, MeshAxis, Placement, Shape};
use std::cell::RefCell;

/// What is split over data parallel ranks beside the samples: each stage adds to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Zero {
    /// Nothing: gradients are all-reduced and every rank updates everything.
    #[default]
    Off,
    /// The optimiser's moments: each rank updates its piece, which is then gathered.
    Moments,
    /// Gradients: they are reduce-scattered.
    Gradients,
    /// Parameters: they are gathered where they are used.
    Weights,
}

/// How parameters follow their gradients g. `rate` is the step's learning rate.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Optimiser {
    /// b ← momentum·b + g + decay·w; w ← w − rate·b (without momentum there is no b).
    Sgd {
        /// What is kept of the last update; 0 for none.
        momentum: f32,
        /// Weight decay.
        decay: f32,
    },
    /// m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; w ← w − rate·(m/(1−β₁ᵗ) / (√(v/(1−β₂ᵗ)) + eps) + decay·w) at step t = 1, 2, …
    /// (Loshchilov and Hutter, 2019).
    AdamW {
        /// β₁, of the first moment.
        beta1: f32,
        /// β₂, of the second moment.
        beta2: f32,
        /// Keeps the quotient finite.
        eps: f32,
        /// Weight decay, apart from the gradient.
        decay: f32,
    },
}

impl Optimiser {
    /// AdamW as it is used for language models: β 0.9 and 0.95, eps 1e-8, decay 0.1.
    pub const ADAMW: Optimiser = Optimiser::AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, decay: 0.1 };
}

/// Where a value lies along mesh axes other than the data axis.
type Places = Vec<(MeshAxis, Placement, Cut)>;

struct Parameter<'g> {
    name: String,
    state: Tensor<'g>,
    /// As products use it: the state, or what was gathered of its pieces.
    used: Tensor<'g>,
    places: Places,
    layer: u32,
}

/// The parameters of a model that is trained: states of a graph under construction.
///
/// ```
/// use warpweft::{DType, GraphBuilder, Optimiser, Parameters, Zero};
///
/// let g = GraphBuilder::new();
/// let parameters = Parameters::new(&g, Zero::Off);
/// let w = parameters.add("w", [3, 2], &[]);
/// let (x, y) = (g.input("x", DType::F32, [8, 2]), g.input("y", DType::F32, [8, 3]));
/// let distance = x.matmul_t(w) - y;
/// let loss = (distance * distance).mean(&[0, 1]);
/// g.output("loss", loss);
/// let (rate, step) = (g.constant(1e-3), g.input("step", DType::F32, [1]).sum(&[0]));
/// parameters.update(loss, Optimiser::ADAMW, rate, step);
/// assert!(g.finish().is_ok());
/// ```
pub struct Parameters<'g> {
    builder: &'g GraphBuilder,
    zero: Zero,
    all: RefCell<Vec<Parameter<'g>>>,
    /// Those that were asked for since somebody looked.
    touched: RefCell<Vec<usize>>,
}

impl<'g> Parameters<'g> {
    /// Of a graph under construction, none yet; `zero` says what data parallel ranks share.
    pub fn new(builder: &'g GraphBuilder, zero: Zero) -> Self {
        Parameters { builder, zero, all: RefCell::default(), touched: RefCell::default() }
    }

    /// A parameter, f32 of known shape, and where it lies along mesh axes other than the data axis. Its contents are
    /// those of the state `name`, which the caller sets before the first step. It belongs to the layer at hand.
    pub fn add(&self, name: &str, shape: impl Into<Shape>, places: &[(MeshAxis, Placement, Cut)]) -> Tensor<'g> {
        let shape = shape.into();
        let state = placed(self.builder.state(name, DType::F32, shape.clone()), places);
        let layer = self.builder.current_layer();
        let used = match share(&shape, places) {
            Some(axis) if self.zero == Zero::Weights => {
                state.place(MeshAxis::Data, Placement::Split(axis));
                state.reshape(shape).place(MeshAxis::Data, Placement::Whole)
            }
            _ => state,
        };
        self.touch(self.all.borrow().len());
        self.all.borrow_mut().push(Parameter { name: name.into(), state, used, places: places.to_vec(), layer });
        used
    }

    /// A parameter that may be there already, for another pass over the same model.
    pub(crate) fn again(&self, name: &str, shape: &[usize], places: &[(MeshAxis, Placement, Cut)]) -> Tensor<'g> {
        let shape = Shape::from(shape);
        let known = self.all.borrow().iter().position(|p| p.name == name && p.state.shape() == shape);
        let Some(i) = known else { return self.add(name, shape, places) };
        self.touch(i);
        self.all.borrow()[i].used
    }

    fn touch(&self, i: usize) {
        let mut touched = self.touched.borrow_mut();
        if !touched.contains(&i) {
            touched.push(i);
        }
    }

    /// Which parameters were added or asked for since the last call, by their order.
    pub(crate) fn take_touched(&self) -> Vec<usize> {
        self.touched.take()
    }

    /// A parameter as products use it.
    pub(crate) fn used(&self, i: usize) -> Tensor<'g> {
        self.all.borrow()[i].used
    }

    /// Adds to a parameter's gradient so far. Where data-parallel ranks share gradients each part is scattered at once, so that
    /// no whole one is kept; else the sum is all-reduced when it is used.
    pub(crate) fn sum(&self, i: usize, before: Option<Tensor<'g>>, g: Tensor<'g>) -> Tensor<'g> {
        let all = self.all.borrow();
        let layer = self.builder.current_layer();
        self.builder.layer(all[i].layer);
        let g = if self.zero >= Zero::Gradients { self.gradient(&all[i], g) } else { g };
        let sum = before.map_or(g, |b| b + g);
        self.builder.layer(layer);
        sum
    }

    /// Names and shapes, in the order in which they were added.
    pub fn list(&self) -> Vec<(String, Shape)> {
        self.all.borrow().iter().map(|p| (p.name.clone(), p.state.shape())).collect()
    }

    /// The gradients of `loss` and the update of every parameter. `rate` is a scalar f32; so is `step`, which counts
    /// steps from 1 and is used by AdamW alone.
    ///
    /// The builder keeps the errors of [`Graph::gradients`](super::Graph::gradients): a parameter that the loss does not
    /// depend on, by name.
    pub fn update(&self, loss: Tensor<'g>, how: Optimiser, rate: Tensor<'g>, step: Tensor<'g>) {
        let states: Vec<Tensor> = self.all.borrow().iter().map(|p| p.state).collect();
        let gradients = self.builder.gradients(loss, &states);
        self.follow(gradients, how, rate, step);
    }

    /// The update of every parameter by its gradient, in the order in which they were added.
    pub(crate) fn follow(&self, gradients: Vec<Tensor<'g>>, how: Optimiser, rate: Tensor<'g>, step: Tensor<'g>) {
        let all = self.all.borrow();
        let before = self.builder.current_layer();
        self.builder.at("optimiser");
        let corrections = match how {
            Optimiser::AdamW { beta1, beta2, .. } => Some((correction(step, beta1), correction(step, beta2))),
            Optimiser::Sgd { .. } => None,
        };
        for (p, g) in all.iter().zip(gradients) {
            self.builder.at(format!("{} update", p.name));
            self.builder.layer(p.layer);
            let change = self.change(p, self.gradient(p, g), how, corrections);
            p.state.assign(p.state - change * rate);
        }
        self.builder.layer(before);
    }

    /// The gradient of a parameter where its update is computed.
    fn gradient(&self, p: &Parameter<'g>, g: Tensor<'g>) -> Tensor<'g> {
        // A value of its own: two parameters may have one gradient and lie otherwise.
        let g = g.reshape(p.state.shape());
        for over in MeshAxis::ALL {
            if over != MeshAxis::Data && p.places.iter().all(|x| x.0 != over) {
                g.place(over, Placement::Whole);
            }
        }
        let split = share(&p.state.shape(), &p.places).filter(|_| self.zero >= Zero::Gradients);
        placed(g, &p.places).place(MeshAxis::Data, split.map_or(Placement::Whole, Placement::Split))
    }

    /// A state of the optimiser, beside a parameter.
    fn moment(&self, p: &Parameter<'g>, what: &str) -> Tensor<'g> {
        let state = placed(self.builder.state(&format!("{}.{what}", p.name), DType::F32, p.state.shape()), &p.places);
        match share(&p.state.shape(), &p.places).filter(|_| self.zero >= Zero::Moments) {
            Some(axis) => state.place(MeshAxis::Data, Placement::Split(axis)),
            None => state,
        }
    }

    /// What is taken from a parameter, before the learning rate.
    fn change(
        &self,
        p: &Parameter<'g>,
        g: Tensor<'g>,
        how: Optimiser,
        corrections: Option<(Tensor<'g>, Tensor<'g>)>,
    ) -> Tensor<'g> {
        let (decay, change) = match how {
            Optimiser::Sgd { momentum: 0.0, decay } => (decay, g),
            Optimiser::Sgd { momentum, decay } => {
                let g = decayed(g, p, decay);
                let b = self.moment(p, "b");
                return b.assign(b * momentum + g);
            }
            Optimiser::AdamW { beta1, beta2, eps, decay } => {
                let (m, v) = (self.moment(p, "m"), self.moment(p, "v"));
                let m = m.assign(m * beta1 + g * (1.0 - beta1));
                let v = v.assign(v * beta2 + g * g * (1.0 - beta2));
                let Some((first, second)) = corrections else { return g };
                (decay, (m / first) / ((v / second).sqrt() + eps))
            }
        };
        decayed(change, p, decay)
    }
}

/// x + decay · w.
fn decayed<'g>(x: Tensor<'g>, p: &Parameter<'g>, decay: f32) -> Tensor<'g> {
    if decay == 0.0 { x } else { x + p.state * decay }
}

/// 1 − βᵗ.
fn correction(step: Tensor<'_>, beta: f32) -> Tensor<'_> {
    1.0 - (step * (beta as f64).ln() as f32).exp()
}

fn placed<'g>(x: Tensor<'g>, places: &[(MeshAxis, Placement, Cut)]) -> Tensor<'g> {
    places.iter().fold(x, |x, (over, placement, cut)| x.cut(*over, *placement, *cut))
}

/// The axis that data parallel ranks share: the longest that no other mesh axis splits.
fn share(shape: &Shape, places: &[(MeshAxis, Placement, Cut)]) -> Option<usize> {
    let free =
        (0..shape.rank()).filter(|i| places.iter().all(|p| p.1 != Placement::Split(*i)) && shape[*i] != Dim::new(1));
    free.max_by_key(|i| (shape[*i].bound(), std::cmp::Reverse(*i)))
}
