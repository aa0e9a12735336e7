//! What a model file says of its own computation: GGUF metadata or config.json, read key by key and counted, so that what
//! nothing has read can be told or refused.

use super::ModelSource;
use super::gguf::{Gguf, Value};
use crate::base::{Error, Result};
use serde_json::Value as Json;
use std::cell::RefCell;
use std::collections::HashSet;

/// Reads sizes and constants of one model. A key is named twice: as GGUF has it, without the architecture's prefix, and as
/// config.json has it, where `a|b` are names of one thing in several families. An empty name is a kind of file that does
/// not have the key. Null is absent.
pub struct Keys<'a> {
    gguf: Option<&'a Gguf>,
    json: Option<&'a Json>,
    /// The prefix of GGUF keys, with its dot.
    prefix: String,
    model: &'a str,
    source: &'a ModelSource,
    read: RefCell<HashSet<String>>,
    notes: RefCell<Vec<String>>,
}

/// Keys of config.json that say nothing of what a step computes.
const HARMLESS: &[&str] = &[
    "architectures",
    "model_type",
    "torch_dtype",
    "dtype",
    "transformers_version",
    "_name_or_path",
    "_attn_implementation",
    "attn_implementation",
    "use_cache",
    "cache_implementation",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "initializer_range",
    "initializer_factor",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "hidden_dropout_prob",
    "hidden_dropout",
    "embedding_dropout",
    "resid_pdrop",
    "embd_pdrop",
    "attn_pdrop",
    "resid_dropout",
    "embd_dropout",
    "classifier_dropout",
    "dropout",
    "gradient_checkpointing",
    "pretraining_tp",
    "output_router_logits",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "task_specific_params",
    "id2label",
    "label2id",
    "problem_type",
    "chunk_size_feed_forward",
    "is_decoder",
    "is_encoder_decoder",
    "auto_map",
    "unsloth_version",
    "unsloth_fixed",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "n_ctx",
    "bos_token",
    "eos_token",
    "finetuning_task",
    "language",
    "license",
    "tokenizer_class",
    "prefix",
    "type_vocab_size",
    "image_token_index",
    "boi_token_index",
    "eoi_token_index",
    "mm_tokens_per_image",
    "vision_config",
    "audio_config",
    "text_config",
    "transformers.js_config",
    "rms_norm_type",
    "base_model_tp_plan",
    "layer_norm_type",
    "_sliding_window_pattern",
    "max_position_embeddings",
    "n_positions",
    "initial_context_length",
    "experts_per_token",
    "use_return_dict",
    "original_max_position_embeddings",
    "max_length",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
];

/// Keys of config.json that change what is computed: where a family has not read one, and it says something, the model is
/// refused. All others are told.
const DECISIVE: &[&str] = &[
    "quantization_config",
    "rope_scaling",
    "rope_parameters",
    "rope_theta",
    "partial_rotary_factor",
    "rotary_pct",
    "rotary_dim",
    "sliding_window",
    "layer_types",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "attention_multiplier",
    "residual_multiplier",
    "embedding_multiplier",
    "logits_scaling",
    "logit_scale",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "n_shared_experts",
    "shared_expert_intermediate_size",
    "moe_intermediate_size",
    "first_k_dense_replace",
    "kv_lora_rank",
    "q_lora_rank",
    "attention_bias",
    "mlp_bias",
    "use_bias",
    "qkv_bias",
    "alibi",
    "parallel_attn",
    "use_parallel_residual",
    "multi_query",
    "clip_qkv",
    "use_qk_norm",
    "qk_layernorm",
    "qk_norm",
    "no_rope_layers",
    "no_rope_layer_interval",
    "attention_chunk_size",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "add_cross_attention",
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "position_embedding_type",
    "use_bidirectional_attention",
    "attn_temperature_tuning",
    "swiglu_limit",
    "layer_norm_eps",
    "rms_norm_eps",
    "layer_norm_epsilon",
    "head_dim",
    "conv_L_cache",
    "linear_num_key_heads",
    "use_absolute_embeddings",
    "embedding_size",
    "altup_num_inputs",
    "laurel_rank",
    "hidden_size_per_layer_input",
    "adapter_config",
    "peft_type",
];

/// Types of models whose families read all parts of config.json.
const WHOLE: &[&str] = &["clip", "siglip"];

static NOTHING: std::sync::LazyLock<Json> = std::sync::LazyLock::new(|| Json::Object(Default::default()));

impl<'a> Keys<'a> {
    /// An object within config.json, read and counted by itself; an empty one where it is absent.
    ///
    /// # Errors
    /// What is there and is no object.
    pub fn part(&self, name: &str) -> Result<Keys<'a>> {
        let json = self.json_value(name).unwrap_or(&NOTHING);
        if !json.is_object() {
            return Err(self.error(format!("{name} is {}, it must be an object", short(&json.to_string(), 40))));
        }
        let (prefix, read, notes) = (self.prefix.clone(), RefCell::default(), RefCell::default());
        Ok(Keys { gguf: None, json: Some(json), prefix, model: self.model, source: self.source, read, notes })
    }
    /// Ends the reading of a part, as [`Keys::finish`] ends that of the whole.
    ///
    /// # Errors
    /// As there.
    pub fn absorb(&self, part: Keys, harmless: &[&str]) -> Result<()> {
        let notes = part.finish(harmless)?;
        self.notes.borrow_mut().extend(notes);
        Ok(())
    }
    pub fn new(source: &'a ModelSource, json: Option<&'a Json>, model: &'a str) -> Keys<'a> {
        let gguf = source.gguf();
        // Models that see and hear keep the text model's keys apart.
        let whole = |j: &Json| j.get("model_type").and_then(Json::as_str).is_some_and(|t| WHOLE.contains(&t));
        let text = |j: &'a Json| j.get("text_config").filter(|t| t.get("hidden_size").is_some() && !whole(j));
        let json = json.map(|j| text(j).unwrap_or(j));
        let architecture = gguf.and_then(|g| g.get("general.architecture")?.text()).unwrap_or_default();
        Keys {
            gguf,
            json,
            prefix: format!("{architecture}."),
            model,
            source,
            read: RefCell::default(),
            notes: RefCell::default(),
        }
    }
    pub fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.model, what)
    }
    pub fn is_gguf(&self) -> bool {
        self.gguf.is_some()
    }
    /// Says something once about how the file is taken.
    pub fn note(&self, what: impl Into<String>) {
        self.notes.borrow_mut().push(what.into());
    }
    /// The name of the architecture, as the file gives it.
    pub fn architecture(&self) -> Result<Option<String>> {
        match self.gguf {
            Some(g) => Ok(g.get("general.architecture").and_then(|v| v.text()).map(String::from)),
            None => self.text("", "model_type"),
        }
    }
    /// The key as a message shows it.
    fn shown(&self, gguf: &str, json: &str) -> String {
        if self.is_gguf() {
            return format!("{}{gguf}", self.prefix);
        }
        let mut names = json.split('|');
        let first = names.next().unwrap_or_default();
        names.find(|n| self.json.is_some_and(|j| j.get(*n).is_some())).unwrap_or(first).into()
    }
    /// A value of GGUF metadata.
    pub fn gguf_value(&self, key: &str) -> Option<&'a Value> {
        let value = self.gguf?.get(&format!("{}{key}", self.prefix))?;
        self.read.borrow_mut().insert(key.into());
        Some(value)
    }
    /// A value of config.json by the first of its names.
    pub fn json_value(&self, names: &str) -> Option<&'a Json> {
        if self.is_gguf() {
            return None;
        }
        let found = names.split('|').filter_map(|n| Some((n, self.json?.get(n)?)));
        found.inspect(|(n, _)| _ = self.read.borrow_mut().insert((*n).into())).map(|(_, v)| v).find(|v| !v.is_null())
    }
    /// A value of config.json that does not count as read.
    pub fn peek(&self, name: &str) -> Option<&'a Json> {
        self.json?.get(name).filter(|v| !v.is_null())
    }
    /// Whether config.json has this key, as null: there is none, whatever the family's default.
    pub fn says_none(&self, names: &str) -> bool {
        !self.is_gguf() && names.split('|').any(|n| self.json.is_some_and(|j| j.get(n).is_some_and(Json::is_null)))
    }
    /// A size of which nothing is the family's default, and 0 and null are none.
    pub fn window(&self, default: Option<usize>) -> Result<Option<usize>> {
        let (gguf, json) = ("attention.sliding_window", "sliding_window");
        if self.says_none(json) || self.number(gguf, json)? == Some(0.0) {
            return Ok(None);
        }
        Ok(self.optional_size(gguf, json)?.or(default.filter(|_| !self.is_gguf())))
    }
    /// A number above 0 of which nothing is the family's default, and 0 and null are none.
    pub fn cap(&self, gguf: &str, json: &str, default: Option<f64>) -> Result<Option<f32>> {
        if self.says_none(json) {
            return Ok(None);
        }
        let x = self.optional_real(gguf, json, 0.0)?.or(default).filter(|x| *x > 0.0);
        Ok(x.map(|x| x as f32))
    }
    /// A number by its name in either kind of file; nothing where the file leaves it out.
    ///
    /// # Errors
    /// What is there and is no number; a list of numbers that are not all one.
    pub fn number(&self, gguf: &str, json: &str) -> Result<Option<f64>> {
        let (number, shown) = if self.is_gguf() {
            match self.gguf_value(gguf) {
                None => return Ok(None),
                // A layer of another kind has nothing of it.
                Some(Value::Ints(all)) if alike(all.iter().copied().filter(|n| *n != 0)) => {
                    let first = all.iter().find(|n| **n != 0).or(all.first());
                    (first.map(|n| *n as f64), "an empty list".into())
                }
                Some(Value::Ints(all)) => {
                    let what = format!(
                        "{} differs from layer to layer ({all:.0?}), this version runs one for all",
                        self.shown(gguf, json)
                    );
                    return Err(self.error(short(&what, 160)));
                }
                Some(v) => (v.float(), v.to_string()),
            }
        } else {
            match self.json_value(json) {
                None => return Ok(None),
                Some(v) => (v.as_f64(), v.to_string()),
            }
        };
        let wrong = || self.error(format!("{} is {}, it must be a number", self.shown(gguf, json), short(&shown, 40)));
        number.map(Some).ok_or_else(wrong)
    }
    /// A size that may be left out; from 1 to 2³¹ where it is there.
    pub fn optional_size(&self, gguf: &str, json: &str) -> Result<Option<usize>> {
        match self.number(gguf, json)? {
            Some(n) if !(1.0..=(1u64 << 31) as f64).contains(&n) || n.fract() != 0.0 => Err(self.error(format!(
                "{} is {}, it must be a whole number from 1 to 2^31",
                self.shown(gguf, json),
                decimal(n)
            ))),
            n => Ok(n.map(|n| n as usize)),
        }
    }
    /// A size that must be there.
    pub fn size(&self, gguf: &str, json: &str) -> Result<usize> {
        self.optional_size(gguf, json)?.ok_or_else(|| self.error(format!("lacks {}", self.shown(gguf, json))))
    }
    /// A finite number from `low` on that may be left out.
    pub fn optional_real(&self, gguf: &str, json: &str, low: f64) -> Result<Option<f64>> {
        match self.number(gguf, json)? {
            Some(x) if !(x.is_finite() && x >= low && (x as f32).is_finite()) => Err(self.error(format!(
                "{} is {}, it must be a number from {low} on",
                self.shown(gguf, json),
                decimal(x)
            ))),
            x => Ok(x),
        }
    }
    /// A finite number from `low` on, or the family's default.
    pub fn real(&self, gguf: &str, json: &str, low: f64, default: f64) -> Result<f64> {
        Ok(self.optional_real(gguf, json, low)?.unwrap_or(default))
    }
    pub fn text(&self, gguf: &str, json: &str) -> Result<Option<String>> {
        let (text, shown) = if self.is_gguf() {
            let Some(v) = self.gguf_value(gguf) else { return Ok(None) };
            (v.text().map(String::from), v.to_string())
        } else {
            let Some(v) = self.json_value(json) else { return Ok(None) };
            (v.as_str().map(String::from), v.to_string())
        };
        let wrong = || self.error(format!("{} is {}, it must be a text", self.shown(gguf, json), short(&shown, 40)));
        text.map(Some).ok_or_else(wrong)
    }
    pub fn flag(&self, gguf: &str, json: &str) -> Result<Option<bool>> {
        let (flag, shown) = if self.is_gguf() {
            let Some(v) = self.gguf_value(gguf) else { return Ok(None) };
            (v.int().map(|n| n != 0), v.to_string())
        } else {
            let Some(v) = self.json_value(json) else { return Ok(None) };
            (v.as_bool(), v.to_string())
        };
        let wrong =
            || self.error(format!("{} is {}, it must be true or false", self.shown(gguf, json), short(&shown, 40)));
        flag.map(Some).ok_or_else(wrong)
    }
    /// A list with a word a layer, `layer_types` say.
    pub fn texts(&self, json: &str) -> Result<Option<Vec<String>>> {
        let Some(v) = self.json_value(json) else { return Ok(None) };
        let all = v.as_array().and_then(|a| a.iter().map(|t| t.as_str().map(String::from)).collect::<Option<_>>());
        let wrong = || self.error(format!("{json} is {}, it must be a list of texts", short(&v.to_string(), 40)));
        all.map(Some).ok_or_else(wrong)
    }
    /// A list of whole numbers.
    pub fn integers(&self, json: &str) -> Result<Option<Vec<i64>>> {
        let Some(v) = self.json_value(json) else { return Ok(None) };
        let all = v.as_array().and_then(|a| a.iter().map(Json::as_i64).collect::<Option<_>>());
        let wrong =
            || self.error(format!("{json} is {}, it must be a list of whole numbers", short(&v.to_string(), 40)));
        all.map(Some).ok_or_else(wrong)
    }
    /// Whether layers slide, one for each of `layers`, as `layer_types` has it; else by `default`.
    pub fn sliding_layers(&self, layers: usize, default: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let Some(types) = self.texts("layer_types")? else { return Ok((0..layers).map(default).collect()) };
        if types.len() != layers {
            return Err(self.error(format!("layer_types has {} entries for {layers} layers", types.len())));
        }
        let one = |t: &String| match t.as_str() {
            "sliding_attention" => Ok(true),
            "full_attention" => Ok(false),
            other => Err(self.error(format!(
                "has layers of the type \"{}\": full and sliding attention can be run",
                short(other, 40)
            ))),
        };
        types.iter().map(one).collect()
    }
    /// GGUF files leave the size of the vocabulary to the embedding.
    pub fn vocab(&self) -> Result<usize> {
        if !self.is_gguf() {
            return self.size("", "vocab_size");
        }
        self.gguf_value("vocab_size");
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
    /// Whether a tensor is in the file in pieces: quants and their scales.
    pub fn is_packed(&self, name: &str) -> bool {
        self.source.is_packed(name)
    }
    pub fn has_tensor(&self, name: &str) -> bool {
        self.source.tensor(name).is_some()
    }
    /// Whether a model folder has a tensor of a layer whose path ends like this one, in brackets.
    pub fn has_any(&self, path: &str) -> bool {
        let end = path.split_once('[').map_or(path, |p| p.1.trim_end_matches("])"));
        self.source.tensors().iter().any(|t| t.name.ends_with(end))
    }
    /// A small vector of the file: factors of frequencies.
    ///
    /// # Errors
    /// One that is not f32 of `n` finite elements.
    pub fn vector(&self, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
        use crate::base::Weights;
        if !self.has_tensor(name) {
            return Ok(None);
        }
        if self.source.arrives() {
            return Err(self.error(format!(
                "has tensor \"{name}\", which is needed before the file has arrived: open it from disk"
            )));
        }
        let array = super::source::read_array(self.source, name)?;
        let values = array.to_f32();
        if array.dtype.is_quantised() || values.len() != n || !values.iter().all(|x| x.is_finite() && *x > 0.0) {
            return Err(self.error(format!("tensor \"{name}\" must hold {n} positive numbers")));
        }
        Ok(Some(values))
    }

    /// A small JSON file of a model folder.
    ///
    /// # Errors
    /// One that is not valid.
    pub fn side_json(&self, name: &str) -> Result<Option<Json>> {
        let Some(bytes) = self.source.side_file(name) else { return Ok(None) };
        let parsed = crate::base::json::parse(bytes);
        parsed.map(Some).map_err(|e| Error::file(self.source.path().join(name), format!("is not valid JSON: {e}")))
    }

    /// Tells or refuses what the family has not read; gives what is to be told.
    ///
    /// # Errors
    /// A key that changes what is computed and that this version does not know, by name.
    pub fn finish(self, harmless: &[&str]) -> Result<Vec<String>> {
        let read = self.read.borrow();
        let known = |key: &str| read.contains(key) || harmless.contains(&key);
        let mut told = vec![];
        if let Some(gguf) = self.gguf {
            for (key, value) in &gguf.metadata {
                let Some(own) = key.strip_prefix(&self.prefix) else { continue };
                if !known(own) && !HARMLESS_GGUF.contains(&own) && !says_nothing(value) {
                    return Err(self
                        .error(format!("has {} = {value}, which this version does not compute with", short(key, 60))));
                }
            }
        } else if let Some(json) = self.json.and_then(Json::as_object) {
            for (key, value) in json.iter().filter(|(k, v)| !known(k) && !HARMLESS.contains(&k.as_str()) && !empty(v)) {
                if DECISIVE.contains(&key.as_str()) {
                    return Err(self.error(format!(
                        "has {key} = {}, which this version does not compute with",
                        short(&value.to_string(), 60)
                    )));
                }
                told.push(short(key, 40));
            }
        }
        let mut notes = self.notes.take();
        if !told.is_empty() {
            let more = told.len().saturating_sub(8);
            told.truncate(8);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            notes.push(format!("{}: config.json says {}{rest}, which is not read", self.model, told.join(", ")));
        }
        Ok(notes)
    }
}

/// Whether all are the same.
fn alike(mut all: impl Iterator<Item = i64>) -> bool {
    let first = all.next();
    all.all(|n| Some(n) == first)
}

/// GGUF keys of any architecture that say nothing of what a step computes.
const HARMLESS_GGUF: &[&str] = &[
    "vocab_size",
    "context_length",
    "pooling_type",
    "tensor_data_layout",
    "attention.causal",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
];

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Int(0) | Value::Bool(false) => true,
        Value::Float(x) => *x == 0.0,
        Value::Text(t) => t.is_empty(),
        Value::Ints(all) => all.is_empty(),
        Value::Floats(all) => all.is_empty(),
        Value::Texts(all) => all.is_empty(),
        _ => false,
    }
}

/// Null, false, zero and empty things.
fn empty(value: &Json) -> bool {
    match value {
        Json::Null | Json::Bool(false) => true,
        Json::Number(n) => n.as_f64() == Some(0.0),
        Json::String(s) => s.is_empty(),
        Json::Array(a) => a.is_empty(),
        Json::Object(o) => o.is_empty(),
        Json::Bool(true) => false,
    }
}

/// What a file says, cut to what a line of text can hold.
pub fn short(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.into(),
    }
}

/// A number from a file as people write it: f64's largest has 309 digits.
pub fn decimal(x: f64) -> String {
    if x.abs() < 1e15 { x.to_string() } else { format!("{x:e}") }
}
