//! What makes one vector of a text's tokens, as sentence-transformers puts it behind an encoder (Reimers and Gurevych,
//! 2019): pooling, dense layers, and length one.

use super::encoder::{Encoding, Linear, Texts};
use super::{Activation, Side};
use crate::base::{DType, Result};
use crate::graph::Tensor;
use crate::model::keys::{Keys, short};
use serde_json::Value as Json;

/// From vectors of tokens to one of the text, and what is done to a text before it is split.
#[derive(Debug, Clone, PartialEq)]
pub struct Sentence {
    /// The results stand one behind another.
    pub pooling: Vec<Pooling>,
    /// In their order, behind pooling.
    pub modules: Vec<Module>,
    /// Tokens of a text that are read; what is longer is cut.
    pub max_tokens: usize,
    /// What stands before each text.
    pub prompt: String,
    pub lower_case: bool,
    /// Whether spaces around a text are dropped.
    pub trim: bool,
    /// Whether a text's punctuation of ASCII is dropped, and its white space is one space each.
    pub plain: bool,
    /// What is put behind a text's tokens up to `max_tokens`.
    pub padding: Option<Padding>,
}

/// The token that fills a text, as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Padding {
    pub token: String,
    /// Whether the text's own tokens do not see it.
    pub masked: bool,
}

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pooling {
    /// That of the first token.
    Cls,
    /// The largest of each element.
    Max,
    Mean,
    /// The sum by the root of the length.
    MeanSqrt,
    /// A token counts as much as its number, from 1 on.
    WeightedMean,
    LastToken,
}

/// What a vector passes through behind pooling.
#[derive(Debug, Clone, PartialEq)]
pub enum Module {
    Dense(Dense),
    /// To length one.
    Normalize,
}

/// `act(W · x + b)`; its tensors lie in a folder of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    pub folder: String,
    pub from: usize,
    pub to: usize,
    pub bias: bool,
    pub activation: Bend,
}

/// PyTorch's modules that a dense layer may end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bend {
    Identity,
    Tanh,
    Sigmoid,
    Other(Activation),
}

/// Names of the modes, in the order in which their results stand.
const MODES: &[(&str, &str, Pooling)] = &[
    ("cls_token", "cls", Pooling::Cls),
    ("max_tokens", "max", Pooling::Max),
    ("mean_tokens", "mean", Pooling::Mean),
    ("mean_sqrt_len_tokens", "mean_sqrt_len", Pooling::MeanSqrt),
    ("weightedmean_tokens", "weightedmean", Pooling::WeightedMean),
    ("lasttoken", "lasttoken", Pooling::LastToken),
];

impl Sentence {
    /// The mean of all tokens, brought to length one.
    pub fn mean(max_tokens: usize) -> Sentence {
        Sentence {
            pooling: vec![Pooling::Mean],
            modules: vec![],
            max_tokens,
            prompt: String::new(),
            lower_case: false,
            trim: false,
            plain: false,
            padding: None,
        }
    }

    /// From modules.json and what it names; the mean where there is nothing.
    ///
    /// # Errors
    /// A module, mode or option that is not known, by name; sizes that do not fit together.
    pub fn read(at: &Keys, width: usize, context: usize) -> Result<Sentence> {
        if at.is_gguf() {
            let pooling = match at.number("pooling_type", "")?.unwrap_or(0.0) as i64 {
                0 | 1 => Pooling::Mean,
                2 => Pooling::Cls,
                3 => Pooling::LastToken,
                n => {
                    return Err(
                        at.error(format!("has pooling_type = {n}: 1 (mean), 2 (first) and 3 (last token) can be run"))
                    );
                }
            };
            return Ok(Sentence { pooling: vec![pooling], ..Sentence::mean(context) });
        }
        let mut out = Sentence { max_tokens: max_tokens(at, context)?, ..Sentence::mean(context) };
        let sentence = at.side_json("sentence_bert_config.json")?;
        out.lower_case = sentence.as_ref().and_then(|c| c.get("do_lower_case")?.as_bool()).unwrap_or(false);
        let include_prompt = match at.side_json("modules.json")? {
            None => {
                let (pooling, include) = pooling(at, "1_Pooling", width)?;
                out.pooling = pooling;
                include
            }
            Some(modules) => {
                out.trim = true;
                out.read_modules(at, &modules, width)?
            }
        };
        out.prompt = prompt(at)?;
        if !include_prompt && !out.prompt.is_empty() {
            return Err(at.error("has include_prompt = false with a default prompt: only true can be run"));
        }
        Ok(out)
    }

    /// Gives whether a prompt's tokens are pooled, too.
    fn read_modules(&mut self, at: &Keys, modules: &Json, width: usize) -> Result<bool> {
        let list = modules.as_array().map(Vec::as_slice).unwrap_or_default();
        let (mut pooled, mut width) = (None, width);
        for (i, module) in list.iter().enumerate() {
            let text = |key: &str| module.get(key).and_then(Json::as_str).unwrap_or_default();
            let (kind, folder) = (text("type").rsplit('.').next().unwrap_or_default(), text("path"));
            match kind {
                "Transformer" if i == 0 && folder.is_empty() => {}
                "Transformer" if i == 0 => {
                    return Err(at.error(format!(
                        "has its encoder in {}: put its files beside modules.json",
                        short(folder, 40)
                    )));
                }
                "Pooling" if pooled.is_none() => {
                    let (modes, include) = pooling(at, folder, width)?;
                    width *= modes.len();
                    (self.pooling, pooled) = (modes, Some(include));
                }
                "Dense" if pooled.is_some() => {
                    let dense = Dense::read(at, folder, width)?;
                    width = dense.to;
                    self.modules.push(Module::Dense(dense));
                }
                "Normalize" if pooled.is_some() => self.modules.push(Module::Normalize),
                "Dropout" => {}
                _ => {
                    return Err(at.error(format!(
                        "has a module {} at place {i}: Transformer, then Pooling, then Dense and Normalize can be run",
                        short(kind, 40)
                    )));
                }
            }
        }
        pooled.ok_or_else(|| at.error("has a modules.json without Pooling: it makes no vector of a text"))
    }

    /// Elements of a text's vector.
    pub fn width(&self, hidden: usize) -> usize {
        let dense = self.modules.iter().rev().find_map(|m| match m {
            Module::Dense(d) => Some(d.to),
            Module::Normalize => None,
        });
        dense.unwrap_or(hidden * self.pooling.len())
    }

    /// Vectors of tokens `[batch, seq, width]` to one of each text, of length one.
    pub fn build<'g>(&self, b: &Texts<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        b.g.at("pooling");
        let parts: Vec<Tensor<'g>> = self.pooling.iter().map(|p| p.build(b, x)).collect();
        let mut y = if let [one] = parts[..] { one } else { b.g.concat(&parts, 1) };
        for module in &self.modules {
            y = match module {
                Module::Dense(dense) => dense.build(b, y),
                Module::Normalize => normalised(b, y),
            };
        }
        if self.modules.last() == Some(&Module::Normalize) { y } else { normalised(b, y) }
    }
}

/// Rows `[batch, n]` at length one.
pub fn normalised<'g>(b: &Encoding<'_, 'g>, y: Tensor<'g>) -> Tensor<'g> {
    let length = (y * y).sum(&[1]).sqrt().maximum(b.g.constant(1e-12));
    y / length.reshape(vec![b.batch, 1.into()])
}

impl Pooling {
    fn build<'g>(self, b: &Texts<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        let real = b.mask.cast(DType::F32).reshape(vec![b.batch, b.seq, 1.into()]);
        let mean = |weight: Tensor<'g>| (x * weight).sum(&[1]) / weight.sum(&[1]).maximum(b.g.constant(1e-9));
        let place = || b.g.iota(DType::F32, vec![1.into(), b.seq, 1.into()], 1, 1);
        match self {
            Pooling::Cls => x.slice(1, 0, 1).reshape(vec![b.batch, x.dim(2)]),
            Pooling::Max => (x * real + (real - 1.0) * f32::MAX).max(&[1]),
            Pooling::Mean => mean(real),
            Pooling::MeanSqrt => (x * real).sum(&[1]) / real.sum(&[1]).maximum(b.g.constant(1e-9)).sqrt(),
            Pooling::WeightedMean => mean(real * place()),
            Pooling::LastToken => {
                let count = real.sum(&[1]).reshape(vec![b.batch, 1.into(), 1.into()]);
                (x * place().eq(count).cast(DType::F32)).sum(&[1])
            }
        }
    }
}

/// The modes of a pooling module, and whether a prompt's tokens are pooled.
fn pooling(at: &Keys, folder: &str, width: usize) -> Result<(Vec<Pooling>, bool)> {
    let name = format!("{folder}/config.json");
    let Some(config) = at.side_json(&name)? else {
        return match at.side_json("modules.json")? {
            Some(_) => Err(at.error(format!("lacks {}, which modules.json needs", short(&name, 60)))),
            None => Ok((vec![Pooling::Mean], true)),
        };
    };
    let own = config.get("word_embedding_dimension").or(config.get("embedding_dimension")).filter(|n| !n.is_null());
    if let Some(n) = own.filter(|n| n.as_u64() != Some(width as u64)) {
        return Err(
            at.error(format!("pools vectors of {} elements, its encoder makes {width}", short(&n.to_string(), 40)))
        );
    }
    let named = config.get("pooling_mode").filter(|m| !m.is_null());
    let modes: Vec<String> = match named {
        Some(Json::String(one)) => vec![one.clone()],
        Some(Json::Array(all)) => all.iter().filter_map(|m| m.as_str().map(String::from)).collect(),
        Some(other) => return Err(at.error(format!("has the pooling mode {}", short(&other.to_string(), 40)))),
        None => {
            let on = config.as_object().into_iter().flatten().filter(|(_, v)| **v == Json::Bool(true));
            on.filter_map(|(k, _)| k.strip_prefix("pooling_mode_").map(String::from)).collect()
        }
    };
    let known = |m: &String| MODES.iter().find(|k| k.0 == m || k.1 == m);
    let mut found = vec![];
    for mode in &modes {
        let Some((_, _, pooling)) = known(mode) else {
            let all: Vec<&str> = MODES.iter().map(|m| m.0).collect();
            return Err(at.error(format!("has the pooling {}: {} can be run", short(mode, 40), all.join(", "))));
        };
        found.push(*pooling);
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        // The mean is the mode of a module that names none.
        match config.get("pooling_mode_mean_tokens") {
            Some(Json::Bool(false)) => return Err(at.error("switches every mode of pooling off")),
            _ => found.push(Pooling::Mean),
        }
    }
    Ok((found, config.get("include_prompt") != Some(&Json::Bool(false))))
}

impl Dense {
    fn read(at: &Keys, folder: &str, width: usize) -> Result<Dense> {
        const HARMLESS: &[&str] =
            &["init_weight", "init_bias", "in_features", "out_features", "bias", "activation_function"];
        let name = format!("{folder}/config.json");
        let Some(config) = at.side_json(&name)? else {
            return Err(at.error(format!("lacks {}, which modules.json needs", short(&name, 60))));
        };
        let wrong = |key: &str, v: &Json| {
            Err(at.error(format!(
                "has {key} = {} in {}, which this version does not compute with",
                short(&v.to_string(), 60),
                short(&name, 60)
            )))
        };
        for (key, value) in config.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null()) {
            let sentence = key.starts_with("module_") && value == "sentence_embedding";
            if !HARMLESS.contains(&key.as_str()) && !sentence {
                return wrong(&short(key, 40), value);
            }
        }
        let size = |key: &str| {
            let n = config.get(key).and_then(Json::as_u64).filter(|n| (1..=1 << 24).contains(n));
            n.map(|n| n as usize).ok_or_else(|| at.error(format!("lacks a size {key} in {}", short(&name, 60))))
        };
        let (from, to) = (size("in_features")?, size("out_features")?);
        if from != width {
            return Err(
                at.error(format!("has a dense layer for {from} elements in {}, {width} come in", short(&name, 60)))
            );
        }
        let activation = match config.get("activation_function").filter(|a| !a.is_null()) {
            None => Bend::Tanh,
            Some(name) => match name.as_str().and_then(|n| n.rsplit('.').next()) {
                Some("Tanh") => Bend::Tanh,
                Some("Identity") => Bend::Identity,
                Some("Sigmoid") => Bend::Sigmoid,
                Some("ReLU") => Bend::Other(Activation::Relu),
                Some("GELU") => Bend::Other(Activation::Gelu),
                Some("SiLU") => Bend::Other(Activation::Silu),
                _ => return wrong("activation_function", name),
            },
        };
        let bias = config.get("bias").and_then(Json::as_bool).unwrap_or(true);
        Ok(Dense { folder: folder.into(), from, to, bias, activation })
    }

    fn build<'g>(&self, b: &Texts<'_, 'g>, x: Tensor<'g>) -> Tensor<'g> {
        let linear = Linear { outside: true, ..Linear::new(format!("{}/linear", self.folder), self.bias) };
        let y = b.linear(&linear, x, [self.to, self.from], Side::Whole);
        match self.activation {
            Bend::Identity => y,
            Bend::Tanh => y.tanh(),
            Bend::Sigmoid => y.sigmoid(),
            Bend::Other(activation) => activation.of(y),
        }
    }
}

/// Tokens of a text that are read: as the folder says, else all that the positions reach.
fn max_tokens(at: &Keys, context: usize) -> Result<usize> {
    let of = |file: &str, key: &str| -> Result<Option<usize>> {
        let Some(config) = at.side_json(file)? else { return Ok(None) };
        let Some(n) = config.get(key).filter(|n| !n.is_null()) else { return Ok(None) };
        // Tokenizers without a limit have a number of 31 digits.
        let size = n.as_f64().filter(|n| *n >= 1.0 && n.fract() == 0.0).map(|n| n.min(1e9) as usize);
        let wrong = || at.error(format!("{key} is {}, it must be a whole number from 1 on", short(&n.to_string(), 40)));
        size.map(Some).ok_or_else(wrong)
    };
    let most = match of("sentence_bert_config.json", "max_seq_length")? {
        Some(n) => n,
        None => of("tokenizer_config.json", "model_max_length")?.unwrap_or(context),
    };
    Ok(most.min(context))
}

/// The prompt that is put before texts unless one asks for another.
fn prompt(at: &Keys) -> Result<String> {
    let Some(config) = at.side_json("config_sentence_transformers.json")? else { return Ok(String::new()) };
    let Some(name) = config.get("default_prompt_name").filter(|n| !n.is_null()) else { return Ok(String::new()) };
    let prompt = name.as_str().and_then(|n| config.get("prompts")?.get(n)?.as_str());
    let missing =
        || at.error(format!("names the default prompt {}, and has no such prompt", short(&name.to_string(), 40)));
    prompt.map(String::from).ok_or_else(missing)
}
