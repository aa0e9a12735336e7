//! A model file with its family, and what callers ask of any model.

use super::ModelSource;
use super::arch::{self, Architecture, Family};
use super::derived;
use super::keys::{Keys, short};
use super::layers::{self, Decoder, Encoder, PagedShape, Sentence, Speech, StepShape, Vision};
use super::tensor::TensorType;
use crate::base::{Bindings, DType, Dim, Error, Result, Var};
use crate::format;
use crate::graph::{Graph, Source};
use std::collections::HashSet;

/// What people ask of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelInfo {
    /// The name in the file, or that of the file.
    pub name: String,
    /// The family that computes it, such as `llama`.
    pub family: &'static str,
    /// Blocks that tokens go through.
    pub layers: usize,
    /// Elements of a token between blocks.
    pub width: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Tokens that there are.
    pub vocab: usize,
    /// Elements of a text's vector, where the model makes one.
    pub embedding: Option<usize>,
    /// Tokens that the model was made for.
    pub context: usize,
    /// Numbers in all weights.
    pub parameters: u64,
    /// Bytes of all weights as they are stored.
    pub weight_bytes: u64,
    /// Bytes of state that each token of context takes on a device.
    pub state_bytes_per_token: u64,
    /// Bytes of state that a sequence takes whatever its length.
    pub state_bytes_per_sequence: u64,
}

/// A file with its family.
///
/// ```no_run
/// use warpweft::{Model, ModelSource};
///
/// let model = Model::new(ModelSource::open("model.gguf")?)?;
/// println!("{}: {} layers", model.info().name, model.info().layers);
/// # Ok::<(), warpweft::Error>(())
/// ```
pub struct Model {
    /// Where the weights are.
    pub source: ModelSource,
    /// What computes it.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub architecture: Architecture,
    /// The name in the file, or that of the file.
    pub name: String,
    family: &'static Family,
    notes: Vec<String>,
    derives: bool,
    /// How a vector of a text is made, where the model makes one.
    sentence: Option<Sentence>,
}

/// Tensors that no step needs, wherever in a name these stand.
const UNNEEDED: &[&str] = &[
    "rotary_emb.inv_freq",
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
    "position_ids",
    ".attn.masked_bias",
    ".attn.bias",
    "pooler.",
    "cls.",
    "vision_tower.",
    "model.visual.",
    "multi_modal_projector.",
    // By which similarities are scaled.
    "logit_scale",
    "logit_bias",
    // Scales of activations, which are not rounded here.
    ".input_scale",
    ".activation_scale",
];

impl Model {
    /// # Errors
    /// An architecture that cannot be run, sizes that do not fit together, keys or tensors that change what is computed and
    /// that this version does not know.
    pub fn new(source: ModelSource) -> Result<Model> {
        let name = source.path().file_stem().map_or("model".into(), |n| n.to_string_lossy().into_owned());
        let json = source.config()?;
        let keys = Keys::new(&source, json.as_ref(), &name);
        let gguf = keys.is_gguf();
        if source.gguf().and_then(|g| g.get("general.type")).and_then(|v| v.text()) == Some("adapter") {
            return Err(
                keys.error("is an adapter (LoRA) without its base: merge it into the base model first, and give that")
            );
        }
        let arch = keys.architecture()?.ok_or_else(|| {
            let key = if gguf { "general.architecture" } else { "model_type" };
            keys.error(format!("lacks {key}, which names its architecture"))
        })?;
        let family = arch::find(&arch, gguf).ok_or_else(|| {
            let others = arch::known(!gguf).into_iter().filter(|n| !arch::known(gguf).contains(n));
            let others: Vec<&str> = others.collect();
            let kind = if gguf { "folders" } else { "GGUF files" };
            let more =
                if others.is_empty() { String::new() } else { format!(", in {kind} also {}", others.join(", ")) };
            keys.error(format!(
                "is of the architecture \"{}\": {} can be run{more}",
                short(&arch, 40),
                arch::known(gguf).join(", ")
            ))
        })?;
        check_quantisation(&keys)?;
        let architecture = (family.read)(&keys)?;
        let sentence = sentence(&keys, &architecture)?;
        let notes = keys.finish(family.harmless)?;
        let mut model = Model { source, architecture, name, family, notes, derives: false, sentence };
        model.derives = model.check_tensors()?;
        Ok(model)
    }

    /// What is to be told of how the file is taken, once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether some weights are made of tensors that the file holds in another form, so that the file must be whole first.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn derives(&self) -> bool {
        self.derives
    }

    /// Every tensor of the file is one that a step reads, or that none needs. Gives whether some are read in another form.
    fn check_tensors(&self) -> Result<bool> {
        // Tensors that are missing or wrong are told by whoever builds a graph to run it.
        let Ok((graph, _)) = self.typical_step(1) else { return Ok(false) };
        let second = match &self.architecture {
            Architecture::Speech(_) => Some(self.hear_graph()),
            _ => self.vision().map(|_| self.image_graph(Var::new("batch", 1))),
        };
        let Ok(second) = second.transpose() else { return Ok(false) };
        let (mut used, mut derives) = (HashSet::new(), false);
        for node in graph.nodes.iter().chain(second.iter().flat_map(|g| &g.nodes)) {
            if let Source::Weight { parts } = &node.source {
                let made = |name: &str| self.source.tensor(name).is_none() && derived::is_derived(name);
                let origins: Vec<String> = parts.iter().flat_map(|p| derived::origins(&p.name)).collect();
                derives |= parts.iter().any(|p| made(&p.name)) || origins.iter().any(|n| self.source.is_packed(n));
                used.extend(origins.iter().flat_map(|n| self.source.pieces(n)));
            }
        }
        let tied = self.decoder().is_some_and(|d| d.common().tied);
        let projects = |name: &str| name == "proj_out.weight" && self.speech().is_some_and(|s| s.tied);
        let head = |name: &str| name == "lm_head.weight" && tied || projects(name);
        // An encoder inside of a larger model: what stands beside it is that model's head.
        let root = self
            .encoder()
            .map(|e| e.root())
            .filter(|(root, words)| self.source.tensor(&format!("{root}{words}.weight")).is_some());
        let beside = |name: &str| root.is_some_and(|(root, _)| !name.starts_with(root) && !name.contains('/'));
        let spare = |name: &str| self.decoder().is_some_and(|d| d.is_spare(name));
        let unneeded =
            |name: &str| head(name) || spare(name) || beside(name) || UNNEEDED.iter().any(|u| name.contains(u));
        match self.source.tensors().iter().find(|t| !used.contains(&t.name) && !unneeded(&t.name)) {
            Some(t) => Err(Error::model(
                &self.name,
                format!("has tensor \"{}\", which this version does not compute with", short(&t.name, 80)),
            )),
            None => Ok(derives),
        }
    }

    /// What generates text with it, where it does.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn decoder(&self) -> Option<&dyn Decoder> {
        match &self.architecture {
            Architecture::Decoder(d) => Some(&**d),
            Architecture::Encoder(_) | Architecture::Speech(_) => None,
        }
    }
    /// What makes embeddings with it, where it does.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn encoder(&self) -> Option<&dyn Encoder> {
        match &self.architecture {
            Architecture::Encoder(e) => Some(&**e),
            Architecture::Decoder(_) | Architecture::Speech(_) => None,
        }
    }
    /// What makes text of speech with it, where it does.
    pub fn speech(&self) -> Option<&Speech> {
        match &self.architecture {
            Architecture::Speech(s) => Some(s),
            Architecture::Decoder(_) | Architecture::Encoder(_) => None,
        }
    }

    /// Its sizes, for people.
    pub fn info(&self) -> ModelInfo {
        let parameters = self.source.parameters();
        let (name, family, weight_bytes) = (self.name.clone(), self.family.name, self.source.weight_bytes());
        match &self.architecture {
            Architecture::Decoder(d) => {
                let s = &d.common().sizes;
                ModelInfo {
                    name,
                    family,
                    layers: s.layers,
                    width: s.width,
                    heads: s.heads,
                    kv_heads: s.kv_heads,
                    vocab: s.vocab,
                    embedding: self.sentence.as_ref().map(|v| v.width(s.width)),
                    context: s.context,
                    parameters,
                    weight_bytes,
                    state_bytes_per_token: d.state_bytes_per_token(),
                    state_bytes_per_sequence: d.own_bytes(),
                }
            }
            Architecture::Encoder(e) => {
                let s = e.common();
                ModelInfo {
                    name,
                    family,
                    layers: s.layers,
                    width: s.width,
                    heads: s.heads,
                    kv_heads: s.heads,
                    vocab: s.vocab,
                    embedding: Some(e.output()),
                    context: s.context,
                    parameters,
                    weight_bytes,
                    state_bytes_per_token: 0,
                    state_bytes_per_sequence: 0,
                }
            }
            Architecture::Speech(s) => {
                let d = &s.decoder;
                ModelInfo {
                    name,
                    family,
                    layers: s.encoder.layers + d.layers,
                    width: d.width,
                    heads: d.heads,
                    kv_heads: d.heads,
                    vocab: d.vocab,
                    embedding: None,
                    context: d.context,
                    parameters,
                    weight_bytes,
                    state_bytes_per_token: s.state_bytes_per_token(),
                    state_bytes_per_sequence: s.state_bytes_per_token() * s.encoder.context as u64,
                }
            }
        }
    }

    /// # Errors
    /// A family that does not generate text.
    pub fn check_generates(&self) -> Result<()> {
        self.generator().map(|_| ())
    }
    fn generator(&self) -> Result<&dyn Decoder> {
        let decoder = self.decoder().filter(|_| self.sentence.is_none());
        let what = match self.speech() {
            Some(_) => "makes text of speech: give it a sound (warpweft transcribe)",
            None => "is an encoder: it makes embeddings, it does not generate text",
        };
        decoder.ok_or_else(|| Error::model(&self.name, what))
    }

    /// The graph of a decoder's step.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn step_graph(&self, step: &StepShape) -> Result<Graph> {
        layers::step(self.generator()?, &self.source, &self.name, step)
    }

    /// The graph of a decoder's step over rows of many sequences.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn paged_graph(&self, step: &PagedShape) -> Result<Graph> {
        layers::paged_step(self.generator()?, &self.source, &self.name, step)
    }

    /// Whether it has such a step.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn has_pages(&self) -> bool {
        self.decoder().is_some_and(Decoder::has_pages)
    }

    /// Bytes of what is kept of one token where keys and values are of type `kv`.
    pub fn kv_bytes_per_token(&self, kv: DType) -> u64 {
        let floats = self.info().state_bytes_per_token / 4;
        kv.bytes(floats).unwrap_or(floats * 4)
    }

    /// Whether some of its weights are quantised.
    pub fn is_quantised(&self) -> bool {
        self.source.tensors().iter().any(|t| matches!(t.ty, TensorType::Known(d) if d.is_quantised()))
    }

    /// Tokens before its own that a row of such a step is told the places of.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn looks_back(&self) -> usize {
        self.decoder().map_or(0, Decoder::looks_back)
    }

    /// The rows that convolutions keep of each sequence, where sequences have states of their own: nothing of these can be shared,
    /// taken back or gone back to.
    pub fn keeps(&self) -> Option<usize> {
        self.decoder().and_then(Decoder::keeps)
    }

    /// A step that stands for the model's use: one token at half of the context, or one text of 32 tokens.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn typical_step(&self, context: usize) -> Result<(Graph, Bindings)> {
        match &self.architecture {
            Architecture::Decoder(_) if self.sentence.is_none() => {
                let total = Var::new("total", context as u32);
                let step = StepShape { seq: 1.into(), total, context, last_only: true, sequence_parallel: false };
                let bindings = Bindings::new().with("seq", 1).with("total", (context as u64 / 2).max(1));
                Ok((self.step_graph(&step)?, bindings))
            }
            Architecture::Speech(s) => {
                let graph = self.write_graph(1.into(), Var::new("total", s.decoder.context as u32))?;
                Ok((graph, Bindings::new().with("total", (s.decoder.context as u64 / 2).max(1))))
            }
            _ => {
                let most = self.sentence.as_ref().map_or(context, |s| s.max_tokens);
                let seq = context.min(most).min(256) as u32;
                let graph = self.embed_graph(Var::new("batch", 8), Var::new("seq", seq))?;
                Ok((graph, Bindings::new().with("batch", 1).with("seq", seq.min(32) as u64)))
            }
        }
    }

    /// How a vector of a text is made, where the model makes one.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn sentence(&self) -> Option<&Sentence> {
        self.sentence.as_ref()
    }

    /// What makes vectors of images, where the model has it.
    pub fn vision(&self) -> Option<&Vision> {
        self.encoder().and_then(Encoder::vision)
    }

    /// The graph of a batch of images: their vectors lie in the space of the texts'.
    ///
    /// # Errors
    /// A model that sees no images; tensors that are missing or have other shapes.
    pub fn image_graph(&self, batch: Var) -> Result<Graph> {
        let lacks = || Error::model(&self.name, "sees no images: models of the types clip and siglip do");
        layers::see(self.vision().ok_or_else(lacks)?, &self.source, &self.name, batch)
    }

    fn heard(&self) -> Result<&Speech> {
        let lacks = || Error::model(&self.name, "hears no speech: models of the type whisper do");
        self.speech().ok_or_else(lacks)
    }

    /// The graph that hears a spectrogram.
    ///
    /// # Errors
    /// A model that hears no speech; tensors that are missing or have other shapes.
    pub fn hear_graph(&self) -> Result<Graph> {
        layers::hear(self.heard()?, &self.source, &self.name)
    }

    /// The graph that writes what was heard: up to `seq` new tokens, `total` with those before.
    ///
    /// # Errors
    /// The same.
    pub fn write_graph(&self, seq: Dim, total: Var) -> Result<Graph> {
        layers::write(self.heard()?, &self.source, &self.name, seq, total)
    }

    /// The graph of a batch of texts; of one text at a time where the model is a decoder.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn embed_graph(&self, batch: Var, seq: Var) -> Result<Graph> {
        match (&self.architecture, &self.sentence) {
            (Architecture::Encoder(e), _) => layers::encode(&**e, &self.source, &self.name, batch, seq),
            (Architecture::Decoder(d), Some(sentence)) => layers::embed(&**d, sentence, &self.source, &self.name, seq),
            _ => Err(Error::model(&self.name, "generates text: it makes no sentence embeddings")),
        }
    }
}

/// Weights of 8 and 4 bits that are read as they are published. What says otherwise stays unread, and so is refused by name.
fn check_quantisation(at: &Keys) -> Result<()> {
    let Some(config) = at.peek("quantization_config") else { return Ok(()) };
    let text = |key: &str| config.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    let known = match text("quant_method") {
        "fp8" => matches!(text("fmt"), "" | "e4m3"),
        "compressed-tensors" => text("format") == "float-quantized",
        "fbgemm_fp8" => true,
        other => other == format::MICROSCALED.name(),
    };
    if known {
        at.json_value("quantization_config");
        if text("quant_method") != format::MICROSCALED.name() {
            at.note("weights of 8 bits are taken as bf16, and activations are not rounded");
        }
    }
    Ok(())
}

/// A folder of sentence-transformers makes vectors of texts, whatever its model.
fn sentence(at: &Keys, architecture: &Architecture) -> Result<Option<Sentence>> {
    let decoder = match architecture {
        Architecture::Encoder(e) => return Ok(Some(e.common().sentence.clone())),
        Architecture::Speech(_) => return Ok(None),
        Architecture::Decoder(d) => d,
    };
    // Converters write how embedders pool, and nothing of others.
    let embeds = match at.is_gguf() {
        true => at.number("pooling_type", "")?.unwrap_or(0.0) > 0.0,
        false => at.side_json("modules.json")?.is_some(),
    };
    if !embeds {
        return Ok(None);
    }
    if at.flag("", "is_causal")? == Some(false) {
        return Err(at.error("has is_causal = false: decoders whose tokens see those before them can be run"));
    }
    let s = &decoder.common().sizes;
    Sentence::read(at, s.width, s.context).map(Some)
}
