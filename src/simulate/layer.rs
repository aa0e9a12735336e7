//! What a layer of a transformer does on one rank, written down from its shape and the layout: kernels and collectives with
//! their sizes, and what they keep for the backward pass. Everything that prices a step reads these lists only.

use super::chip::Attends;
use super::layout::{Layout, Recompute};
use super::shape::Shape;
use crate::topology::Precision;
use crate::topology::collective::Kind;

/// Ranks that a collective runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    Tensor,
    Context,
    Expert,
    /// Ranks that hold the same weights outside of experts, and of experts.
    Data,
    ExpertData,
    Pipeline,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// `batch` products m × k by k × n.
    Gemm { name: &'static str, batch: f64, m: f64, n: f64, k: f64, precision: Precision },
    /// A kernel that moves bytes; `rows`: it works by rows.
    Stream { name: &'static str, bytes: f64, rows: bool },
    /// A fused attention kernel.
    Attention { name: &'static str, of: Attends, flops: f64, bytes: f64 },
    /// `hidden`: the share that other work hides.
    Collective { name: &'static str, kind: Kind, bytes: f64, axis: Axis, hidden: f64 },
    /// Tokens to the ranks of their experts, or results back: an all-to-all over the expert ranks. `bytes` are of all
    /// `copies` that go to a token's experts; `once`: to each node one only, which hands it on within, to each rank once.
    /// `hidden` behind other work, over a network and within a node or rack.
    Tokens { name: &'static str, bytes: f64, copies: f64, once: bool, hidden: (f64, f64) },
    /// The device waits for its host.
    Host { name: &'static str, seconds: f64 },
}

/// A layer on one rank, one micro-batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layer {
    pub forward: Vec<Work>,
    /// Without the part that recomputes.
    pub backward: Vec<Work>,
    /// Run again before the backward pass.
    pub recompute: Vec<Work>,
    /// Bytes kept from forward to backward.
    pub kept: f64,
    /// Bytes that live only while the layer runs backward (what is recomputed).
    pub working: f64,
    /// Parameters of this rank: replicated over data-parallel ranks, and of its experts (replicated over dp / ep).
    pub parameters: (f64, f64),
    /// Tensors that these are in.
    pub tensors: f64,
}

struct Writer<'a> {
    shape: &'a Shape,
    layout: &'a Layout,
    /// Tokens, and tokens where norms and residuals are split over tensor ranks.
    tokens: f64,
    norm_tokens: f64,
    t: f64,
    layer: Layer,
}

/// Layer `index` of a model on one rank.
pub fn layer(shape: &Shape, layout: &Layout, index: usize) -> Layer {
    let (tokens, t) = (layout.tokens(), layout.tp as f64);
    let norm_tokens = if layout.sequence_parallel { tokens / t } else { tokens };
    let (shared, experts) = shape.layer_parameters(index);
    // Norms lie whole on every tensor rank.
    let norms = shape.norm_parameters();
    let parameters = ((shared - norms) / t + norms, experts / layout.expert_tensor() as f64 / layout.ep as f64);
    let mut w = Writer { shape, layout, tokens, norm_tokens, t, layer: Layer { parameters, ..Layer::default() } };
    w.attention();
    if shape.routed(index) {
        w.experts()
    } else {
        w.mlp(shape.dense_width() as f64, tokens, true)
    }
    w.finish()
}

/// Bytes of an element outside of products: activations, and weights as they are gathered.
fn width(layout: &Layout) -> f64 {
    layout.precision.bytes().max(2.0)
}

/// Bytes of an element of gradients: 32 bits beside bf16 and fp8 weights, 16 beside fp16 (Megatron's default then).
fn wide(layout: &Layout) -> f64 {
    if layout.precision == Precision::Fp16 { 2.0 } else { 4.0 }
}

/// Of a rank's parameters (outside of experts, and of experts) so many bytes each, over those that hold the same.
fn over_copies(name: &'static str, kind: Kind, (shared, experts): (f64, f64), bytes: f64) -> [Work; 2] {
    let one = |parameters: f64, axis| Work::Collective { name, kind, bytes: parameters * bytes, axis, hidden: 0.0 };
    [one(shared, Axis::Data), one(experts, Axis::ExpertData)]
}

/// ZeRO 3: weights are gathered before each pass of a layer. Nothing at other stages.
pub fn gather_weights(layout: &Layout, layer: &Layer) -> Vec<Work> {
    if layout.zero < 3 {
        return vec![];
    }
    over_copies("all-gather weights", Kind::AllGather, layer.parameters, width(layout)).to_vec()
}

/// ZeRO 3: gradients are scattered after a layer's backward pass. Nothing at other stages.
pub fn scatter_gradients(layout: &Layout, layer: &Layer) -> Vec<Work> {
    if layout.zero < 3 {
        return vec![];
    }
    over_copies("reduce-scatter gradients", Kind::ReduceScatter, layer.parameters, 4.0).to_vec()
}

/// What ranks that hold the same parameters send each other after the last backward pass.
pub fn share_gradients(layout: &Layout, parameters: (f64, f64)) -> Vec<Work> {
    let over = |kind, bytes| over_copies("data-parallel gradients", kind, parameters, bytes);
    match layout.zero {
        0 => over(Kind::AllReduce, wide(layout)).to_vec(),
        1 | 2 => [over(Kind::ReduceScatter, wide(layout)), over(Kind::AllGather, width(layout))].concat(),
        _ => vec![],
    }
}

/// A tied head on another stage than the embedding is a copy of it: their gradients are summed.
pub fn share_embedding(shape: &Shape, layout: &Layout) -> Option<Work> {
    let bytes = (shape.vocab * shape.hidden) as f64 * wide(layout) / layout.tp as f64;
    (shape.tied && layout.pp > 1).then_some(Work::Collective {
        name: "tied embedding",
        kind: Kind::AllReduce,
        bytes,
        axis: Axis::Pipeline,
        hidden: 0.0,
    })
}

/// Bytes that a rank sends to the next stage for a micro-batch: sequence parallel and scatter-gather both send each
/// tensor rank's share only.
pub fn hop(shape: &Shape, layout: &Layout) -> f64 {
    layout.tokens() * shape.hidden as f64 * width(layout) / layout.tp as f64
}

impl Writer<'_> {
    fn bytes(&self) -> f64 {
        width(self.layout)
    }
    /// What a product's operand takes when it is kept: its own width.
    fn operand(&self) -> f64 {
        self.layout.precision.bytes()
    }
    fn hidden(&self) -> f64 {
        self.shape.hidden as f64
    }
    /// Norms of models without learnt biases (RMS norms), rotations and gates are what eager PyTorch does in many kernels.
    fn passes(&self) -> f64 {
        if self.shape.gated { self.layout.stack.passes } else { 1.0 }
    }

    /// A linear layer forward, with its two products backward.
    fn linear(&mut self, name: &'static str, batch: f64, m: f64, n: f64, k: f64) {
        let p = self.layout.precision;
        self.layer.tensors += if self.shape.biases { 2.0 } else { 1.0 };
        let gemm = |name, m, n, k| Work::Gemm { name, batch, m, n, k, precision: p };
        self.layer.forward.push(gemm(name, m, n, k));
        self.layer.backward.push(gemm(name, m, k, n));
        self.layer.backward.push(gemm(name, n, k, m));
        if p.bytes() < 2.0 {
            // Operands are cast to 8 bits, and transposed copies made for the products backward.
            self.both("cast", batch * m * k * 4.0, batch * m * n * 4.0, false);
        }
    }

    fn both(&mut self, name: &'static str, forward: f64, backward: f64, rows: bool) {
        self.layer.forward.push(Work::Stream { name, bytes: forward, rows });
        self.layer.backward.push(Work::Stream { name, bytes: backward, rows });
    }

    /// Before products that are split by columns: with sequence parallelism the tokens are gathered.
    fn enter(&mut self, tokens: f64) {
        let bytes = tokens * self.hidden() * self.bytes();
        if self.layout.tp > 1 {
            let c = |name, kind| Work::Collective {
                name,
                kind,
                bytes,
                axis: Axis::Tensor,
                hidden: self.layout.stack.overlap_tensor,
            };
            if self.layout.sequence_parallel {
                self.layer.forward.push(c("all-gather tokens", Kind::AllGather));
                self.layer.backward.push(c("all-gather tokens", Kind::AllGather));
                self.layer.backward.push(c("reduce-scatter gradients", Kind::ReduceScatter));
            } else {
                self.layer.backward.push(c("all-reduce gradients", Kind::AllReduce));
            }
        }
    }

    /// After products that are split by rows.
    fn leave(&mut self, tokens: f64) {
        let bytes = tokens * self.hidden() * self.bytes();
        if self.layout.tp > 1 {
            let c = |name, kind| Work::Collective {
                name,
                kind,
                bytes,
                axis: Axis::Tensor,
                hidden: self.layout.stack.overlap_tensor,
            };
            if self.layout.sequence_parallel {
                self.layer.forward.push(c("reduce-scatter sums", Kind::ReduceScatter));
                self.layer.backward.push(c("all-gather gradients", Kind::AllGather));
            } else {
                self.layer.forward.push(c("all-reduce sums", Kind::AllReduce));
            }
        }
    }

    fn norm(&mut self) {
        let (b, x) = (self.bytes(), self.norm_tokens * self.hidden());
        self.layer.tensors += if self.shape.biases { 2.0 } else { 1.0 };
        let passes = self.passes();
        self.both("norm", 2.0 * b * x * passes, 3.0 * b * x * passes, true);
        // The norm's input and what it gives to the products.
        self.layer.kept += x * (b + self.operand());
    }

    fn residual(&mut self) {
        let (b, x) = (self.bytes(), self.norm_tokens * self.hidden());
        let mask = if self.layout.stack.dropout { x } else { 0.0 };
        self.both("residual", 3.0 * b * x + mask, 2.0 * b * x + mask, false);
        self.layer.kept += mask;
    }

    fn attention(&mut self) {
        let s = self.shape;
        let (b, h, t) = (self.bytes(), self.hidden(), self.t);
        let (heads, d, dv) = (s.heads as f64 / t, s.head() as f64, s.value_head() as f64);
        // Fewer heads of keys than tensor ranks: each rank keeps one whole.
        let kv = (s.kv_heads() as f64 / t).max(1.0);
        self.norm();
        self.enter(self.tokens);
        let m = self.tokens;
        match s.latent {
            Some(l) => {
                let (q, c, r) = (l.query as f64, l.kv as f64, l.rope as f64);
                self.linear("qkv down", 1.0, m, q + c + r, h);
                self.linear("q up", 1.0, m, heads * d, if l.query == 0 { h } else { q });
                self.linear("kv up", 1.0, m, heads * (l.nope as f64 + dv), c);
                self.layer.kept += m * (q + c + r) * b;
            }
            None => self.linear("qkv", 1.0, m, (heads + 2.0 * kv) * d, h),
        }
        let kv_wide = if s.latent.is_some() { heads } else { kv };
        self.layer.kept += m * (heads * d + kv_wide * (d + dv)) * b;
        if s.rope {
            let bytes = 2.0 * b * m * (heads + kv_wide) * d * self.passes();
            self.both("rope", bytes, bytes, true);
        }
        self.core(heads, kv_wide, d, dv);
        self.linear("attention out", 1.0, m, h, heads * dv);
        self.layer.kept += m * heads * dv * self.operand();
        self.leave(self.tokens);
        self.residual();
    }

    /// Scores, softmax and the weighted sum; under context parallelism keys and values travel a ring beside it.
    fn core(&mut self, heads: f64, kv: f64, d: f64, dv: f64) {
        let (l, b) = (self.layout, self.bytes());
        let (m, seq, sequences) = (self.tokens, l.seq as f64, l.micro_batch as f64);
        if l.cp > 1 {
            let blocks = l.cp as f64 - 1.0;
            let bytes = blocks * m * kv * (d + dv) * b;
            let c = |name, bytes| Work::Collective {
                name,
                kind: Kind::SendRecv { from: 0, to: 1 },
                bytes,
                axis: Axis::Context,
                hidden: 0.9,
            };
            self.layer.forward.push(c("send keys and values", bytes));
            self.layer.backward.push(c("send keys and values", bytes));
            self.layer.backward.push(c("send their gradients", bytes));
        }
        let traffic = b * m * (heads * (d + dv) + kv * (d + dv));
        if l.stack.fused_attention {
            for span in self.shape.spans(seq) {
                let of = Attends {
                    head: d.min(128.0),
                    length: span.length,
                    useful: span.useful,
                    backward: false,
                    pytorch: l.stack.pytorch,
                };
                let (flops, bytes) = (2.0 * m * span.keys * heads * (d + dv) * span.share, traffic * span.share);
                // Backward computes scores again: five products for two.
                self.layer.forward.push(Work::Attention { name: "attention", of, flops, bytes });
                let of = Attends { backward: true, ..of };
                let (flops, bytes) = (2.5 * flops, 2.0 * bytes);
                self.layer.backward.push(Work::Attention { name: "attention", of, flops, bytes });
            }
            self.layer.kept += m * heads * 4.0;
            return;
        }
        let (batch, rows, scores) = (sequences * heads, m / sequences, m * seq * heads);
        let gemm = |name, m, n, k| Work::Gemm { name, batch, m, n, k, precision: Precision::Fp16 };
        let mut forward =
            vec![gemm("scores", rows, seq, d), Work::Stream { name: "softmax", bytes: 2.0 * b * scores, rows: true }];
        let mut backward = vec![
            gemm("weighted sum", rows, seq, dv),
            gemm("weighted sum", seq, dv, rows),
            Work::Stream { name: "softmax", bytes: 3.0 * b * scores, rows: true },
        ];
        if l.stack.dropout {
            forward.push(Work::Stream { name: "dropout", bytes: (2.0 * b + 1.0) * scores, rows: false });
            backward.push(Work::Stream { name: "dropout", bytes: (2.0 * b + 1.0) * scores, rows: false });
        }
        forward.push(gemm("weighted sum", rows, dv, seq));
        backward.extend([gemm("scores", rows, d, seq), gemm("scores", seq, d, rows)]);
        // Softmax's result, dropout's mask and result.
        let kept = scores * (b + if l.stack.dropout { 1.0 + b } else { 0.0 });
        if l.recompute == Recompute::Selective {
            self.layer.recompute.extend(forward.iter().cloned());
            self.layer.working += kept;
        } else {
            self.layer.kept += kept;
        }
        self.layer.forward.extend(forward);
        self.layer.backward.extend(backward);
    }

    /// An MLP over so many tokens, `width` wide before it is split.
    fn mlp(&mut self, width: f64, tokens: f64, whole: bool) {
        let (b, h, f) = (self.bytes(), self.hidden(), width / self.t);
        let gates = if self.shape.gated { 2.0 } else { 1.0 };
        if whole {
            self.norm();
            self.enter(tokens);
        }
        self.linear("mlp up", 1.0, tokens, gates * f, h);
        self.activation(1.0, tokens, f, gates);
        self.linear("mlp down", 1.0, tokens, h, f);
        self.layer.kept += tokens * f * (gates * b + self.operand());
        if whole {
            self.leave(tokens);
            self.residual();
        }
    }

    fn activation(&mut self, batch: f64, tokens: f64, f: f64, gates: f64) {
        let x = batch * tokens * f * self.bytes();
        // One fused kernel; of gated ones, activation and product are two where nothing fuses them.
        let passes = if gates > 1.0 { self.passes() } else { 1.0 };
        self.both("activation", (gates + 1.0) * x * passes, (2.0 * gates + 1.0) * x * passes, true);
    }

    /// Routed experts: tokens go to the ranks of their experts and come back. The rank with the most of them sets the pace:
    /// so many times the mean as the layout's imbalance says.
    fn experts(&mut self) {
        let (s, l, b) = (self.shape, self.layout, self.bytes());
        let (h, e, k) = (self.hidden(), s.experts as f64, s.top_k as f64);
        let gates = if s.gated { 2.0 } else { 1.0 };
        self.norm();
        self.enter(self.tokens);
        self.layer.forward.push(Work::Gemm {
            name: "router",
            batch: 1.0,
            m: self.tokens,
            n: e,
            k: h,
            precision: Precision::Bf16,
        });
        self.layer.backward.push(Work::Gemm {
            name: "router",
            batch: 2.0,
            m: self.tokens,
            n: e,
            k: h,
            precision: Precision::Bf16,
        });
        // Where experts are spread over tensor ranks, too, each of these routes its share of the tokens to whole experts.
        let te = l.expert_tensor() as f64;
        let routed = self.tokens * k * te / self.t * l.imbalance;
        let bytes = routed * h * b;
        let copies = 2.0 * l.stack.permutes * bytes;
        self.both("permute", copies, copies, false);
        if l.ep > 1 {
            // With tensor ranks each sends its share of the tokens: forward in the format that the stack sends them in.
            let c = |name, width: f64| Work::Tokens {
                name,
                bytes: routed * h * width / te,
                copies: k,
                once: l.stack.once_per_node,
                hidden: (l.stack.overlap_experts, l.stack.overlap_experts_near),
            };
            let sent = b.min(l.stack.dispatch);
            self.layer.forward.extend([c("all-to-all dispatch", sent), c("all-to-all combine", b)]);
            self.layer.backward.extend([c("all-to-all dispatch", b), c("all-to-all combine", b)]);
        }
        // The host launches many small kernels, and must know how many tokens came before it can go on: of a layer's two passes
        // the one back has two thirds of them.
        let local = e / l.ep as f64;
        let waits = l.stack.host_experts.0 + l.stack.host_expert.0 * local;
        if waits > 0.0 {
            for (pass, share) in [(&mut self.layer.forward, 1.0), (&mut self.layer.backward, 2.0)] {
                pass.push(Work::Host { name: "host of experts", seconds: waits * share / 3.0 });
            }
        }
        // Few tokens do not meet every expert: as many as so many throws hit.
        let met = local * (1.0 - (1.0 - 1.0 / local).powf(routed)).max(1.0 / local);
        let (local, each) = (met, routed / met);
        let f = s.ffn as f64 / te;
        self.linear("experts up", local, each, gates * f, h);
        self.activation(local, each, f, gates);
        self.linear("experts down", local, each, h, f);
        if s.linear_biases {
            let (forward, backward) = l.stack.bias_bytes;
            self.both("expert biases", routed * h * forward, routed * h * backward, false);
        }
        self.layer.kept += routed * (h * self.operand() + f * (gates * b + self.operand()));
        for _ in 0..s.shared_experts {
            self.mlp(s.ffn as f64, self.tokens, false);
        }
        self.leave(self.tokens);
        self.residual();
    }

    fn finish(mut self) -> Layer {
        let input = self.norm_tokens * self.hidden() * self.bytes();
        match self.layout.recompute {
            Recompute::Full => {
                self.layer.recompute = self.layer.forward.clone();
                (self.layer.working, self.layer.kept) = (self.layer.kept + self.layer.working, input);
            }
            Recompute::Selective if self.layout.stack.pytorch => self.every_other(input),
            _ => {}
        }
        // Gradients of weights are added to 32-bit sums once a micro-batch (products wrote 16 bits of them already).
        let (shared, experts) = self.layer.parameters;
        if self.layout.zero < 3 {
            self.layer.backward.push(Work::Stream {
                name: "accumulate gradients",
                bytes: 6.0 * (shared + experts),
                rows: false,
            });
        }
        self.layer
    }

    /// PyTorch's selective checkpointing: every other product's result, attention's result and the input are kept. Of fused
    /// products (query with key and value, gate with up) that is half of each.
    fn every_other(&mut self, input: f64) {
        let mut kept = input;
        let mut again = vec![];
        for w in &self.layer.forward {
            match w {
                Work::Gemm { name, batch, m, n, k, precision } => {
                    kept += batch * m * n;
                    again.push(Work::Gemm { name, batch: *batch, m: *m, n: n / 2.0, k: *k, precision: *precision });
                }
                Work::Attention { .. } => {
                    kept += self.tokens * (self.shape.heads * self.shape.value_head()) as f64 / self.t * 2.0
                }
                Work::Stream { .. } | Work::Host { .. } => again.push(w.clone()),
                Work::Collective { .. } | Work::Tokens { .. } => {}
            }
        }
        self.layer.recompute = again;
        (self.layer.working, self.layer.kept) = (self.layer.kept, kept);
    }
}

/// The embedding on the first stage.
pub fn embedding(shape: &Shape, layout: &Layout) -> Layer {
    let x = layout.tokens() * shape.hidden as f64 * width(layout);
    let mut out =
        Layer { parameters: (shape.embedding_parameters() / layout.tp as f64, 0.0), tensors: 1.0, ..Layer::default() };
    out.forward.push(Work::Stream { name: "embedding", bytes: 2.0 * x, rows: false });
    out.backward.push(Work::Stream { name: "embedding", bytes: 4.0 * x, rows: false });
    if layout.tp > 1 {
        let kind = if layout.sequence_parallel { Kind::ReduceScatter } else { Kind::AllReduce };
        out.forward.push(Work::Collective {
            name: if layout.sequence_parallel { "reduce-scatter sums" } else { "all-reduce sums" },
            kind,
            bytes: x,
            axis: Axis::Tensor,
            hidden: 0.0,
        });
    }
    out.kept = if layout.stack.dropout { x / width(layout) } else { 0.0 };
    out
}

/// The head, its norm and the loss on the last stage. Logits are kept as wide as activations, the loss works in 32 bits.
pub fn head(shape: &Shape, layout: &Layout) -> Layer {
    let (tokens, h, v) = (layout.tokens(), shape.hidden as f64, shape.vocab as f64 / layout.tp as f64);
    let owned = shape.vocab as f64 * h / layout.tp as f64;
    // On a pipeline, a tied head is a copy of the embedding.
    let parameters = if shape.tied && layout.pp == 1 { 0.0 } else { owned };
    let mut out =
        Layer { parameters: (parameters + shape.norm_parameters() / 2.0, 0.0), tensors: 2.0, ..Layer::default() };
    let b = width(layout);
    // 8-bit training leaves the head in 16.
    let precision = if layout.precision.bytes() < 2.0 { Precision::Bf16 } else { layout.precision };
    let gemm = |m, n, k| Work::Gemm { name: "head", batch: 1.0, m, n, k, precision };
    out.forward.push(Work::Stream { name: "norm", bytes: 2.0 * b * tokens * h, rows: true });
    out.forward.push(gemm(tokens, v, h));
    // Bytes of the loss a logit: PyTorch's widens it (2 + 4), takes the logarithm (4 + 4), and goes back the same way; that
    // over tensor ranks (Megatron's) also takes maximum, difference, exponential, sum and quotient apart, and goes back in two.
    let pytorch = layout.stack.pytorch;
    out.forward.push(Work::Stream {
        name: "loss",
        bytes: tokens * v * if pytorch { 14.0 } else { 38.0 },
        rows: pytorch,
    });
    out.backward.push(Work::Stream {
        name: "loss",
        bytes: tokens * v * if pytorch { 22.0 } else { 14.0 },
        rows: pytorch,
    });
    out.backward.extend([gemm(tokens, h, v), gemm(v, h, tokens)]);
    if layout.tp > 1 {
        let c = |bytes| Work::Collective {
            name: "all-reduce loss",
            kind: Kind::AllReduce,
            bytes,
            axis: Axis::Tensor,
            hidden: 0.0,
        };
        out.forward.extend([c(tokens * 4.0), c(tokens * 4.0), c(tokens * 4.0)]);
        out.backward.push(c(tokens * h * b));
    }
    out.kept = tokens * (2.0 * b * h + v * if pytorch { 4.0 + b } else { 4.0 });
    out.working = tokens * v * if pytorch { 8.0 } else { 4.0 };
    out
}
