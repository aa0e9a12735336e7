//! The shape of a transformer: what sizes its work and its memory.

use crate::base::{Error, Result};
use crate::topology::Precision;
use serde::Deserialize;

static PRESETS: &str = include_str!("../../assets/presets.toml");

/// Low-rank attention (DeepSeek): ranks of the query and of the cached latent, head sizes without and with rotation, and
/// of values.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latent {
    /// 0 where queries are made of the residual stream in one product.
    pub query: usize,
    pub kv: usize,
    pub nope: usize,
    pub rope: usize,
    pub value: usize,
}

/// What the queries of some layers see.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Of all layers.
    pub share: f64,
    /// Keys of a query, on average; keys that it sees at most; of the scores that a kernel computes, the share that counts.
    pub keys: f64,
    pub length: f64,
    pub useful: f64,
}

/// Rows and columns of a tile of a fused attention kernel.
const TILE: f64 = 128.0;

/// A decoder-only transformer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    pub name: String,
    #[serde(default)]
    pub source: String,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    /// Heads of keys and values; 0 for as many as `heads`.
    #[serde(default)]
    pub kv_heads: usize,
    /// Elements a head; 0 for hidden / heads.
    #[serde(default)]
    pub head: usize,
    /// Width of the MLP, of one expert where there are experts.
    pub ffn: usize,
    pub vocab: usize,
    #[serde(default)]
    pub gated: bool,
    #[serde(default)]
    pub rope: bool,
    /// Learnt positions; 0 for none.
    #[serde(default)]
    pub positions: usize,
    #[serde(default)]
    pub biases: bool,
    /// Attention, router and experts have biases, norms have none.
    #[serde(default)]
    pub linear_biases: bool,
    /// The head shares the embedding's weights.
    #[serde(default)]
    pub tied: bool,
    /// Experts of a layer, 0 for a dense model, how many a token takes, and how many take every token.
    #[serde(default)]
    pub experts: usize,
    #[serde(default)]
    pub top_k: usize,
    #[serde(default)]
    pub shared_experts: usize,
    /// Leading layers without experts, and their width.
    #[serde(default)]
    pub dense_layers: usize,
    #[serde(default)]
    pub dense_ffn: usize,
    /// After the leading layers, one of so many has experts and the others are dense; 0 and 1: all have.
    #[serde(default)]
    pub moe_every: usize,
    /// Keys that a query sees where attention is windowed, and one layer of so many sees all; 0: all layers see all.
    #[serde(default)]
    pub window: usize,
    #[serde(default)]
    pub full_every: usize,
    /// Parameters that mix tokens in each of the layers that do not see all keys, where these are no attention (gated delta
    /// rules); 0: as many as of the others. Queries come with a gate as wide as they are.
    #[serde(default)]
    pub mixer: usize,
    #[serde(default)]
    pub query_gate: bool,
    /// Attention's weights stay 16 bits wide in checkpoints whose experts are of 4 bits.
    #[serde(default)]
    pub wide_attention: bool,
    /// Experts are published in 4 bits only: whatever a run calls its format, they are stored so.
    #[serde(default)]
    pub narrow_experts: bool,
    pub latent: Option<Latent>,
}

impl Default for Shape {
    /// Nothing: for `..Shape::default()`.
    fn default() -> Shape {
        Shape {
            name: String::new(),
            source: String::new(),
            layers: 0,
            hidden: 0,
            heads: 0,
            kv_heads: 0,
            head: 0,
            ffn: 0,
            vocab: 0,
            gated: false,
            rope: false,
            positions: 0,
            biases: false,
            linear_biases: false,
            tied: false,
            experts: 0,
            top_k: 0,
            shared_experts: 0,
            dense_layers: 0,
            dense_ffn: 0,
            moe_every: 0,
            window: 0,
            full_every: 0,
            mixer: 0,
            query_gate: false,
            wide_attention: false,
            narrow_experts: false,
            latent: None,
        }
    }
}

#[derive(Deserialize)]
struct File {
    model: Vec<Shape>,
}

/// Every model that is known by name.
pub fn presets() -> Vec<Shape> {
    toml::from_str::<File>(PRESETS).map(|f| f.model).unwrap_or_default()
}

/// Words of published names that say nothing of a model's sizes: how it was tuned, when, and in which format.
const FILLING: [&str; 17] = [
    "instruct", "chat", "it", "base", "thinking", "hf", "fp8", "fp4", "nvfp4", "mxfp4", "bf16", "2507", "0528", "0324",
    "0905", "turbo", "v2",
];

/// Letters and digits only, without the owner and the words that names differ by.
fn plain(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let own = name.rsplit('/').next().unwrap_or(&name);
    let words: Vec<&str> = own.split(['-', '_', ' ']).collect();
    let kept = words.iter().enumerate().filter(|(i, w)| *i == 0 || !FILLING.contains(w)).map(|w| *w.1);
    let mut out: String = kept.collect::<String>().chars().filter(char::is_ascii_alphanumeric).collect();
    for (from, to) in [
        ("meta", ""),
        ("instruct", ""),
        ("llamav", "llama"),
        ("llama31", "llama3"),
        ("llama33", "llama3"),
        ("llama27", "llama27"),
        ("megatronturing", "mt"),
        ("v01", ""),
        ("hf", ""),
    ] {
        out = out.replace(from, to);
    }
    out
}

/// The preset of this name; spelling is taken lightly (`Llama3.1-8B` is `llama-3-8b`).
pub fn preset(name: &str) -> Result<Shape> {
    let all = presets();
    let wanted = plain(name);
    const ALSO: [(&str, &str); 24] = [
        ("gpt3", "gpt3-175b"),
        ("gpt175b", "gpt3-175b"),
        ("gpt31t", "gpt-1t"),
        ("1t", "gpt-1t"),
        ("530b", "mt-nlg-530b"),
        ("mtnlg", "mt-nlg-530b"),
        ("gpt3530b", "mt-nlg-530b"),
        ("175b", "gpt3-175b"),
        ("22b", "gpt3-22b"),
        ("deepseekv3671b", "deepseek-v3"),
        ("deepseek671b", "deepseek-v3"),
        ("deepseekr1", "deepseek-v3"),
        ("deepseekv31", "deepseek-v3"),
        ("kimik25", "kimi-k2"),
        ("minimaxm21", "minimax-m2"),
        ("minimaxm25", "minimax-m2"),
        ("glm46", "glm-4.5"),
        ("glm47", "glm-4.5"),
        ("qwen3235b", "qwen3-235b-a22b"),
        ("llama4scout17b16e", "llama-4-scout"),
        ("llama4maverick17b128e", "llama-4-maverick"),
        ("qwen3next", "qwen3-next-80b-a3b"),
        ("llama7b", "llama-2-7b"),
        ("llama70b", "llama-2-70b"),
    ];
    let alias = ALSO.iter().find(|a| a.0 == wanted).map(|a| plain(a.1));
    let found = all.iter().find(|m| plain(&m.name) == *alias.as_ref().unwrap_or(&wanted));
    found.cloned().ok_or_else(|| {
        let near = all.iter().min_by_key(|m| distance(&plain(&m.name), &wanted)).map_or("", |m| &m.name);
        let known: Vec<&str> = all.iter().map(|m| m.name.as_str()).collect();
        Error::usage(format!("there is no model preset \"{name}\" (nearest: {near}): there are {}", known.join(", ")))
    })
}

/// Levenshtein's distance.
pub(super) fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let kept = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = kept.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

impl Shape {
    /// Refuses what no transformer has.
    pub fn check(&self) -> Result<()> {
        let bad = |what: String| Err(Error::model(if self.name.is_empty() { "of the row" } else { &self.name }, what));
        for (what, v) in [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("ffn", self.ffn),
            ("vocab", self.vocab),
        ] {
            if v == 0 || v > 1 << 28 {
                return bad(format!("{what} is {v}, must be 1 to {}", 1 << 28));
            }
        }
        if self.layers > 1 << 16 || self.experts > 1 << 16 {
            return bad(format!(
                "{} layers and {} experts: no more than 65536 of either are priced",
                self.layers, self.experts
            ));
        }
        if !self.heads.is_multiple_of(self.kv_heads()) {
            return bad(format!(
                "{} heads do not divide over {} heads of keys and values",
                self.heads,
                self.kv_heads()
            ));
        }
        if self.head == 0 && self.latent.is_none() && !self.hidden.is_multiple_of(self.heads) {
            return bad(format!("hidden {} does not divide into {} heads", self.hidden, self.heads));
        }
        if self.experts > 0 && (self.top_k == 0 || self.top_k > self.experts) {
            return bad(format!("top_k is {}, must be 1 to {} (experts)", self.top_k, self.experts));
        }
        Ok(())
    }

    pub fn kv_heads(&self) -> usize {
        if self.kv_heads == 0 { self.heads } else { self.kv_heads }
    }

    /// Elements of a query head, and of a value head.
    pub fn head(&self) -> usize {
        match self.latent {
            Some(l) => l.nope + l.rope,
            None if self.head > 0 => self.head,
            None => self.hidden / self.heads,
        }
    }

    pub fn value_head(&self) -> usize {
        self.latent.map_or(self.head(), |l| l.value)
    }

    /// Whether layer `index` has experts.
    pub fn routed(&self, index: usize) -> bool {
        let every = self.moe_every.max(1);
        self.experts > 0 && index >= self.dense_layers && (index - self.dense_layers + 1).is_multiple_of(every)
    }

    /// Each kind of layer: the index of one of it, and how many there are.
    pub fn kinds(&self) -> Vec<(usize, usize)> {
        let first = |routed: bool| (0..self.layers).find(|i| self.routed(*i) == routed);
        let count = |routed: bool| (0..self.layers).filter(|i| self.routed(*i) == routed).count();
        [false, true].into_iter().filter_map(|r| first(r).map(|i| (i, count(r)))).collect()
    }

    /// Of `keys` keys, the share that the queries of a layer see: all in full layers, `window` in the others, on average.
    pub fn seen(&self, keys: f64) -> f64 {
        if self.window == 0 || keys <= self.window as f64 {
            return 1.0;
        }
        let full = if self.full_every > 0 { 1.0 / self.full_every as f64 } else { 0.0 };
        full + (1.0 - full) * self.window as f64 / keys
    }

    /// What queries of a causal sequence see: of the layers that see all, and of those that see a window.
    pub fn spans(&self, seq: f64) -> Vec<Span> {
        let window = self.window as f64;
        let all = Span { share: 1.0, keys: seq / 2.0, length: seq, useful: 1.0 };
        if self.window == 0 || seq <= window {
            return vec![all];
        }
        let full = if self.full_every > 0 { 1.0 / self.full_every as f64 } else { 0.0 };
        let keys = window * (1.0 - window / (2.0 * seq));
        // A window has a second edge, along which half of a tile is masked.
        let masked = TILE / 2.0 * (1.0 - window / seq);
        let near = Span { share: 1.0 - full, keys, length: (window + TILE).min(seq), useful: keys / (keys + masked) };
        vec![Span { share: full, ..all }, near]
    }

    /// Width of the MLP of a layer without experts.
    pub fn dense_width(&self) -> usize {
        if self.dense_ffn > 0 { self.dense_ffn } else { self.ffn }
    }

    /// Parameters of attention and norms of a layer.
    pub fn attention_parameters(&self) -> f64 {
        let (h, heads, kv, d) = (self.hidden as f64, self.heads as f64, self.kv_heads() as f64, self.head() as f64);
        let products = match self.latent {
            Some(l) => {
                let (q, c, r) = (l.query as f64, l.kv as f64, l.rope as f64);
                let queries = if l.query == 0 { h * heads * d } else { h * q + q * heads * d };
                queries + h * (c + r) + c * heads * (l.nope + l.value) as f64 + heads * l.value as f64 * h
            }
            None => h * (heads * if self.query_gate { 2.0 } else { 1.0 } + 2.0 * kv) * d + heads * d * h,
        };
        let full = if self.mixer > 0 { 1.0 / self.full_every.max(1) as f64 } else { 1.0 };
        let products = products * full + self.mixer as f64 * (1.0 - full);
        let biases = if self.biases || self.linear_biases { (heads + 2.0 * kv) * d + h } else { 0.0 };
        products + biases + self.norm_parameters()
    }

    /// Parameters of a layer's two norms.
    pub fn norm_parameters(&self) -> f64 {
        2.0 * self.hidden as f64 * if self.biases { 2.0 } else { 1.0 }
    }

    /// Parameters of one MLP of this width.
    pub fn mlp_parameters(&self, width: usize) -> f64 {
        let (h, f) = (self.hidden as f64, width as f64);
        let gates = if self.gated { 2.0 } else { 1.0 };
        let biases = if self.biases || self.linear_biases { gates * f + h } else { 0.0 };
        h * f * (gates + 1.0) + biases
    }

    /// Parameters of a layer outside of its routed experts, and of these.
    pub fn layer_parameters(&self, index: usize) -> (f64, f64) {
        if self.routed(index) {
            let shared =
                self.shared_experts as f64 * self.mlp_parameters(self.ffn) + (self.hidden * self.experts) as f64;
            (self.attention_parameters() + shared, self.experts as f64 * self.mlp_parameters(self.ffn))
        } else {
            (self.attention_parameters() + self.mlp_parameters(self.dense_width()), 0.0)
        }
    }

    /// Bytes that an engine stores a parameter of layers in, outside of experts and of experts, where it is asked for a format.
    pub fn stored(&self, asked: Precision) -> (f64, f64) {
        if !self.narrow_experts {
            return (asked.bytes(), asked.bytes());
        }
        // Blocks of 32 with a byte of scale; kernels of 4-bit experts work on whole tiles of 256 (github vllm-project/vllm
        // vllm/model_executor/layers/quantization/mxfp4.py).
        let padded = self.ffn.next_multiple_of(256) as f64 / self.ffn as f64;
        (asked.bytes().max(if self.wide_attention { 2.0 } else { 0.0 }), padded * (0.5 + 1.0 / 32.0))
    }

    /// Parameters of the embedding with its positions.
    pub fn embedding_parameters(&self) -> f64 {
        ((self.vocab + self.positions) * self.hidden) as f64
    }

    pub fn parameters(&self) -> f64 {
        let layers: f64 = (0..self.layers).map(|i| self.layer_parameters(i)).map(|(a, b)| a + b).sum();
        let head = if self.tied { 0.0 } else { (self.vocab * self.hidden) as f64 };
        layers + self.embedding_parameters() + head + self.norm_parameters() / 2.0
    }

    /// Parameters that a token meets.
    pub fn active_parameters(&self) -> f64 {
        let share = if self.experts > 0 { self.top_k as f64 / self.experts as f64 } else { 0.0 };
        let layers: f64 = (0..self.layers).map(|i| self.layer_parameters(i)).map(|(a, b)| a + b * share).sum();
        layers + (self.vocab * self.hidden) as f64
    }

    /// Bytes of keys and values that a token leaves in the cache of one layer.
    pub fn kv_bytes(&self, bytes: f64) -> f64 {
        let elements = self.latent.map_or(2 * self.kv_heads() * self.head(), |l| l.kv + l.rope);
        elements as f64 * bytes
    }

    /// Operations of the products of one token forward, attention over `context` tokens included (all of them, unless
    /// `causal`, which halves it).
    pub fn forward_flops(&self, context: f64, causal: bool) -> f64 {
        let seen: f64 = if causal {
            self.spans(context).iter().map(|s| s.share * s.keys).sum()
        } else {
            context * self.seen(context)
        };
        let scores = 2.0 * (self.heads * (self.head() + self.value_head())) as f64 * seen;
        2.0 * self.active_parameters() + self.layers as f64 * scores
    }
}
