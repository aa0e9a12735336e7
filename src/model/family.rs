//! Which family a file belongs to, and what callers ask of any model.

use super::gguf::Gguf;
use super::{ModelSource, bert, llama};
use crate::base::{Bindings, DType, Dim, Error, Result, Var, Weights};
use crate::graph::Graph;
use serde_json::Value as Json;

/// The families that can be run, with their sizes.
#[derive(Debug, Clone, PartialEq)]
pub enum Family {
    Llama(llama::Config),
    Bert(bert::Config),
}

/// The variables of a decoder's step.
#[derive(Debug, Clone, Copy)]
pub struct StepShape {
    /// Tokens of the step: a number, or a variable.
    pub seq: Dim,
    /// Tokens in the cache after the step.
    pub total: Var,
    /// Rows of the cache.
    pub context: usize,
    /// Logits of the last token only, else of all.
    pub last_only: bool,
    /// On a mesh, tensor ranks share the norms between blocks by tokens.
    pub sequence_parallel: bool,
}

/// What people ask of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    pub name: String,
    pub family: &'static str,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocab: usize,
    /// Tokens that the model was made for.
    pub context: usize,
    pub parameters: u64,
    pub weight_bytes: u64,
    /// Bytes of state that each token of context takes on a device.
    pub state_bytes_per_token: u64,
}

/// A file with its family.
pub struct Model {
    pub source: ModelSource,
    pub family: Family,
    pub name: String,
}

/// Architectures by the names that files give them.
const KNOWN: &[(&str, &str)] = &[("llama", "llama"), ("mistral", "llama"), ("bert", "bert")];

impl Model {
    /// # Errors
    /// An architecture that cannot be run, or sizes that do not fit together.
    pub fn new(source: ModelSource) -> Result<Model> {
        let name = source.path().file_stem().map_or("model".into(), |n| n.to_string_lossy().into_owned());
        let json = source.config()?;
        let at = Lookup { gguf: source.gguf(), json: json.as_ref(), model: &name, source: &source };
        if at.gguf.and_then(|g| g.get("general.type")).and_then(|v| v.text()) == Some("adapter") {
            return Err(
                at.error("is an adapter (LoRA) without its base: merge it into the base model first, and give that")
            );
        }
        let arch = at.text_of("general.architecture", "model_type").ok_or_else(|| {
            let key = if at.is_gguf() { "general.architecture" } else { "model_type" };
            at.error(format!("lacks {key}, which names its architecture"))
        })?;
        let family = match KNOWN.iter().find(|(n, _)| *n == arch).map(|(_, f)| *f) {
            Some("llama") => Family::Llama(llama::Config::read(&at)?),
            Some("bert") if !at.is_gguf() => Family::Bert(bert::Config::read(&at)?),
            _ => {
                let known: Vec<&str> = KNOWN.iter().map(|k| k.0).collect();
                return Err(at.error(format!(
                    "is of the architecture \"{}\": {} can be run (bert from safetensors)",
                    short(&arch),
                    known.join(", ")
                )));
            }
        };
        Ok(Model { source, family, name })
    }

    pub fn info(&self) -> ModelInfo {
        let parameters = self.source.tensors().iter().map(|t| t.shape.iter().product::<u64>()).sum();
        let weight_bytes = self.source.weight_bytes();
        let name = self.name.clone();
        match &self.family {
            Family::Llama(c) => ModelInfo {
                name,
                family: "llama",
                layers: c.layers,
                width: c.width,
                heads: c.heads,
                kv_heads: c.kv_heads,
                vocab: c.vocab,
                context: c.context,
                parameters,
                weight_bytes,
                state_bytes_per_token: c.state_bytes_per_token(),
            },
            Family::Bert(c) => ModelInfo {
                name,
                family: "bert",
                layers: c.layers,
                width: c.width,
                heads: c.heads,
                kv_heads: c.heads,
                vocab: c.vocab,
                context: c.context,
                parameters,
                weight_bytes,
                state_bytes_per_token: 0,
            },
        }
    }

    /// # Errors
    /// A family that does not generate text.
    pub fn check_generates(&self) -> Result<()> {
        match &self.family {
            Family::Llama(_) => Ok(()),
            Family::Bert(_) => {
                Err(Error::model(&self.name, "is an encoder: it makes embeddings, it does not generate text"))
            }
        }
    }

    /// The graph of a decoder's step.
    pub fn step_graph(&self, step: &StepShape) -> Result<Graph> {
        match &self.family {
            Family::Llama(c) => llama::build(c, &self.source, &self.name, step),
            Family::Bert(_) => self.check_generates().map(|_| Graph::default()),
        }
    }

    /// A step that stands for the model's use: one token at half of the context, or one text of 32 tokens.
    pub fn typical_step(&self, context: usize) -> Result<(Graph, Bindings)> {
        match &self.family {
            Family::Llama(_) => {
                let total = Var::new("total", context as u32);
                let graph = self.step_graph(&StepShape {
                    seq: 1.into(),
                    total,
                    context,
                    last_only: true,
                    sequence_parallel: false,
                })?;
                Ok((graph, Bindings::new().with("seq", 1).with("total", (context as u64 / 2).max(1))))
            }
            Family::Bert(c) => {
                let seq = context.min(c.context).min(256) as u32;
                let graph = self.embed_graph(Var::new("batch", 8), Var::new("seq", seq))?;
                Ok((graph, Bindings::new().with("batch", 1).with("seq", seq.min(32) as u64)))
            }
        }
    }

    /// The graph of an encoder's batch.
    pub fn embed_graph(&self, batch: Var, seq: Var) -> Result<Graph> {
        match &self.family {
            Family::Bert(c) => bert::build(c, &self.source, &self.name, batch, seq),
            Family::Llama(_) => Err(Error::model(&self.name, "generates text: it makes no sentence embeddings")),
        }
    }
}

/// Reads sizes from GGUF metadata or from config.json, whichever the model has.
pub struct Lookup<'a> {
    gguf: Option<&'a Gguf>,
    json: Option<&'a Json>,
    model: &'a str,
    source: &'a ModelSource,
}

impl Lookup<'_> {
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.model, what)
    }
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }
    /// A number by its name in either kind of file; nothing where the file leaves it out.
    ///
    /// # Errors
    /// What is there and is no number.
    pub fn number(&self, gguf: &str, json: &str) -> Result<Option<f64>> {
        let (number, shown) = match (self.gguf, self.json) {
            (Some(g), _) => match g.get(gguf) {
                Some(v) => (v.float(), v.to_string()),
                None => return Ok(None),
            },
            (None, Some(j)) => match j.get(json) {
                Some(v) if !v.is_null() => (v.as_f64(), v.to_string()),
                _ => return Ok(None),
            },
            _ => return Ok(None),
        };
        let key = if self.is_gguf() { gguf } else { json };
        number.map(Some).ok_or_else(|| self.error(format!("{key} is {}, it must be a number", short(&shown))))
    }
    /// A size that may be left out; from 1 to 2³¹ where it is there.
    pub fn optional_size(&self, gguf: &str, json: &str) -> Result<Option<usize>> {
        let key = if self.is_gguf() { gguf } else { json };
        match self.number(gguf, json)? {
            Some(n) if !(1.0..=(1u64 << 31) as f64).contains(&n) || n.fract() != 0.0 => {
                Err(self.error(format!("{key} is {}, it must be a whole number from 1 to 2^31", decimal(n))))
            }
            n => Ok(n.map(|n| n as usize)),
        }
    }
    /// A size that must be there.
    pub fn size(&self, gguf: &str, json: &str) -> Result<usize> {
        let key = if self.is_gguf() { gguf } else { json };
        self.optional_size(gguf, json)?.ok_or_else(|| self.error(format!("lacks {key}")))
    }
    /// A finite number from `low` on, or its default.
    pub fn real(&self, gguf: &str, json: &str, low: f64, default: f64) -> Result<f64> {
        let key = if self.is_gguf() { gguf } else { json };
        let x = self.number(gguf, json)?.unwrap_or(default);
        if x.is_finite() && x >= low && (x as f32).is_finite() {
            Ok(x)
        } else {
            Err(self.error(format!("{key} is {}, it must be a number from {low} on", decimal(x))))
        }
    }
    pub fn text(&self, json: &str) -> Option<String> {
        self.json?.get(json)?.as_str().map(String::from)
    }
    /// Whether config.json says so.
    pub fn flag(&self, json: &str) -> Option<bool> {
        self.json?.get(json)?.as_bool()
    }
    fn text_of(&self, gguf: &str, json: &str) -> Option<String> {
        match self.gguf {
            Some(g) => g.get(gguf)?.text().map(String::from),
            None => self.text(json),
        }
    }
    /// GGUF files leave the size of the vocabulary to the embedding.
    pub fn vocab(&self) -> Result<usize> {
        if !self.is_gguf() {
            return self.size("", "vocab_size");
        }
        let name = "token_embd.weight";
        let rows = self
            .source
            .tensor(name)
            .ok_or_else(|| Error::file(self.source.path(), format!("lacks tensor \"{name}\"")))?
            .shape[0];
        match rows {
            1..=0x8000_0000 => Ok(rows as usize),
            _ => Err(self.error(format!("tensor \"{name}\" has {rows} rows, it must have from 1 to 2^31"))),
        }
    }
    pub fn has_tensor(&self, name: &str) -> bool {
        self.source.tensor(name).is_some()
    }
    /// Refuses a tensor that would change what the model computes, and that its family does not read.
    pub fn refuse_tensors(&self, unknown: fn(&str) -> bool) -> Result<()> {
        match self.source.tensors().iter().find(|t| unknown(&t.name)) {
            Some(t) => Err(self.error(format!("has tensor \"{}\", which this version does not compute with", t.name))),
            None => Ok(()),
        }
    }
    /// The divisor of linear position scaling; other kinds are refused by name.
    pub fn rope_scale(&self) -> Result<f64> {
        let scaling = self.json.and_then(|j| j.get("rope_scaling")).filter(|s| !s.is_null());
        let (kind, factor) = match (self.gguf, scaling) {
            (Some(g), _) => (
                g.get("llama.rope.scaling.type").and_then(|v| v.text()).map(String::from),
                g.get("llama.rope.scaling.factor").and_then(|v| v.float()),
            ),
            (None, Some(s)) => {
                let text = |k: &str| s.get(k).and_then(|v| v.as_str()).map(String::from);
                let kind = text("rope_type")
                    .or(text("type"))
                    .ok_or_else(|| self.error(format!("rope_scaling {} names no type", short(&s.to_string()))))?;
                (Some(kind), s.get("factor").and_then(|v| v.as_f64()))
            }
            _ => (None, None),
        };
        match kind.as_deref() {
            None | Some("none" | "default") => Ok(1.0),
            Some("linear") => {
                let factor = factor.ok_or_else(|| self.error("has linear rope scaling without a factor"))?;
                if factor.is_finite() && factor > 0.0 {
                    Ok(factor)
                } else {
                    Err(self.error(format!("has a rope scaling factor of {}", decimal(factor))))
                }
            }
            Some(other) => {
                Err(self.error(format!("has rope scaling \"{}\": none and linear can be run", short(other))))
            }
        }
    }
}

/// What a file says, cut to what a line of text can hold.
fn short(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into(),
    }
}

/// A number from a file as people write it: f64's largest has 309 digits.
fn decimal(x: f64) -> String {
    if x.abs() < 1e15 { x.to_string() } else { format!("{x:e}") }
}

/// The type of a tensor that must have this shape.
pub fn check(weights: &dyn Weights, model: &str, name: &str, shape: &[usize]) -> Result<DType> {
    let info = weights.info(name)?;
    let have = info.shape.known().unwrap_or_default();
    if have != shape {
        return Err(Error::model(model, format!("tensor \"{name}\" is {have:?}, it must be {shape:?}")));
    }
    Ok(info.dtype)
}
