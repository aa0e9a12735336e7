//! Rotary positions (Su et al., 2021): the speed of each pair of elements, and how files stretch them to longer contexts.

use crate::base::Result;
use crate::graph::RopeLayout;
use crate::model::keys::{Keys, short};
use serde_json::Value as Json;
use std::f64::consts::PI;

/// The rotation of queries and keys.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Elements of a head that turn, from the first on; the rest stay.
    pub width: usize,
    /// Which two elements are a pair.
    pub layout: RopeLayout,
    /// Radians per position, of each pair.
    pub speeds: Vec<f64>,
    /// Cosines and sines are multiplied by this (YaRN's and LongRoPE's attention factor).
    pub scale: f64,
}

/// What a family's own definition says where a file says nothing.
#[derive(Debug, Clone, Copy)]
pub struct RopeDefaults {
    pub base: f64,
    /// Which share of them turns.
    pub share: f64,
    /// Elements of a head.
    pub head: usize,
    /// How rows of q and k are ordered in GGUF files of this family. Model folders have halves.
    pub gguf: RopeLayout,
    pub context: usize,
    /// Whether YaRN's range of pairs is cut to whole ones.
    pub yarn_truncate: bool,
}

/// LongRoPE's divisors up to the original context, in GGUF files.
const SHORT_FACTORS: &str = "rope_factors_short.weight";

/// How positions are stretched.
#[derive(Debug, Clone, PartialEq)]
enum Scaling {
    None,
    /// Positions are divided (Chen et al., 2023).
    Linear(f64),
    /// Slow pairs are slowed, fast ones are not (Llama 3.1).
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// Between the two, by the number of turns in the original context (Peng et al., 2023).
    Yarn {
        factor: f64,
        original: f64,
        fast: f64,
        slow: f64,
        truncate: bool,
        attention: f64,
    },
    /// A divisor for each pair (Ding et al., 2024).
    Factors {
        factors: Vec<f64>,
        attention: f64,
    },
}

impl Rope {
    /// Without any stretching.
    pub fn plain(base: f64, head: usize, layout: RopeLayout) -> Rope {
        Rope::stretched(base, head, layout, &Scaling::None)
    }

    fn stretched(base: f64, width: usize, layout: RopeLayout, scaling: &Scaling) -> Rope {
        let plain = |i: usize| base.powf(-(2.0 * i as f64) / width as f64);
        let speed = |i: usize| match scaling {
            Scaling::None => plain(i),
            Scaling::Linear(factor) => plain(i) / factor,
            Scaling::Llama3 { factor, low, high, original } => {
                let turns = original * plain(i) / (2.0 * PI);
                let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                plain(i) * (smooth + (1.0 - smooth) / factor)
            }
            Scaling::Yarn { factor, original, fast, slow, truncate, .. } => {
                let dim = |turns: f64| width as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
                let (mut from, mut to) = (dim(*fast), dim(*slow));
                if *truncate {
                    (from, to) = (from.floor(), to.ceil());
                }
                let (from, mut to) = (from.max(0.0), to.min(width as f64 - 1.0));
                if from == to {
                    to += 0.001;
                }
                let slowed = ((i as f64 - from) / (to - from)).clamp(0.0, 1.0);
                plain(i) * (slowed / factor + 1.0 - slowed)
            }
            Scaling::Factors { factors, .. } => plain(i) / factors[i],
        };
        let scale = match scaling {
            Scaling::Yarn { attention, .. } | Scaling::Factors { attention, .. } => *attention,
            _ => 1.0,
        };
        Rope { width, layout, speeds: (0..width / 2).map(speed).collect(), scale }
    }

    /// As the file says, for all layers.
    ///
    /// # Errors
    /// A kind of scaling that is not known, by name; numbers that are missing or make no sense.
    pub fn read(at: &Keys, d: &RopeDefaults) -> Result<Rope> {
        if at.is_gguf() { Rope::from_gguf(at, d) } else { Rope::from_config(at, d, None) }
    }

    /// Of the layers of one kind, where `rope_parameters` has an object for each (`full_attention`, `sliding_attention`).
    /// Without it the layers that slide turn at the base given for them and are not stretched.
    pub fn read_kind(at: &Keys, d: &RopeDefaults, sliding: Option<f64>) -> Result<Rope> {
        let kind = if sliding.is_some() { "sliding_attention" } else { "full_attention" };
        let of_kinds = at.json_value("rope_parameters").is_some_and(|p| p.get(kind).is_some());
        match sliding {
            _ if of_kinds => Rope::from_config(at, &RopeDefaults { base: sliding.unwrap_or(d.base), ..*d }, Some(kind)),
            Some(base) => Ok(Rope::plain(base, d.head, if at.is_gguf() { d.gguf } else { RopeLayout::Half })),
            None => Rope::read(at, d),
        }
    }

    fn from_gguf(at: &Keys, d: &RopeDefaults) -> Result<Rope> {
        let base = at.real("rope.freq_base", "", 1.0, d.base)?;
        let width = at.optional_size("rope.dimension_count", "")?.unwrap_or(d.head);
        check_width(at, width, d.head)?;
        let kind = at.text("rope.scaling.type", "")?;
        // `rope.scale_linear` is its older name.
        let older = at.optional_real("rope.scale_linear", "", 0.0)?;
        let factor = at.optional_real("rope.scaling.factor", "", 0.0)?.or(older).filter(|f| *f != 0.0);
        let attention = at.real("rope.scaling.attn_factor", "", 0.0, 1.0)?;
        let original = at.optional_size("rope.scaling.original_context_length", "")?.unwrap_or(d.context);
        let number = |key: &str, default: f64| at.real(&format!("rope.scaling.{key}"), "", 0.0, default);
        let scaling = match (kind.as_deref(), factor) {
            // Files with factors need not name their kind.
            _ if at.has_tensor(SHORT_FACTORS) => Scaling::Factors {
                factors: at.vector(SHORT_FACTORS, width / 2)?.unwrap_or_default().into_iter().map(f64::from).collect(),
                attention,
            },
            (Some("none"), _) | (None, None) => Scaling::None,
            (Some("linear") | None, Some(factor)) => Scaling::Linear(factor),
            (Some("yarn"), Some(factor)) => Scaling::Yarn {
                factor,
                original: original as f64,
                fast: number("yarn_beta_fast", 32.0)?,
                slow: number("yarn_beta_slow", 1.0)?,
                truncate: d.yarn_truncate,
                attention: number("yarn_attn_factor", attention)? * yarn_attention(factor),
            },
            (Some("longrope"), _) => {
                return Err(at.error(format!("has longrope scaling without tensor \"{SHORT_FACTORS}\"")));
            }
            (Some(kind @ ("linear" | "yarn")), None) => {
                return Err(at.error(format!("has {kind} rope scaling without a factor")));
            }
            (Some(other), _) => return Err(unknown(at, other)),
        };
        let mut rope = Rope::stretched(base, width, d.gguf, &scaling);
        // What a converter has put down of Llama 3's scaling.
        let own = at.vector("rope_freqs.weight", width / 2)?;
        own.into_iter().flatten().zip(&mut rope.speeds).for_each(|(f, s)| *s /= f as f64);
        Ok(rope)
    }

    /// `rope_parameters` of transformers 5, or `rope_theta` and `rope_scaling` of transformers 4.
    fn from_config(at: &Keys, d: &RopeDefaults, kind: Option<&str>) -> Result<Rope> {
        let five = at.json_value("rope_parameters");
        let five = five.map(|p| kind.and_then(|k| p.get(k)).unwrap_or(p));
        let four = at.json_value("rope_scaling");
        let object = five.or(four);
        if let Some(o) = object.filter(|o| !o.is_object()) {
            return Err(at.error(format!("has rope parameters {}, they must be an object", short(&o.to_string(), 40))));
        }
        let p = Parameters { at, object };
        let outer = at.optional_real("", "rope_theta|rotary_emb_base", 1.0)?;
        let base = p.number("rope_theta")?.or(outer).unwrap_or(d.base);
        if base < 1.0 {
            return Err(at.error(format!("rope_theta is {base}, it must be a number from 1 on")));
        }
        let outer = at.optional_real("", "partial_rotary_factor|rotary_pct", 0.0)?;
        let share = p.number("partial_rotary_factor")?.or(outer).unwrap_or(d.share);
        let width = at.optional_size("", "rotary_dim")?.unwrap_or((d.head as f64 * share) as usize);
        check_width(at, width, d.head)?;
        let scaling = p.scaling(d, width)?;
        p.check_all_read()?;
        Ok(Rope::stretched(base, width, RopeLayout::Half, &scaling))
    }

    /// Cosine and sine of every position below `context` and every pair, `[context, width / 2]` each, computed in f64.
    pub fn tables(&self, context: usize) -> [Vec<f32>; 2] {
        let table = |f: fn(f64) -> f64| {
            let row = |at: usize| self.speeds.iter().map(move |s| (f(at as f64 * s) * self.scale) as f32);
            (0..context).flat_map(row).collect()
        };
        [table(f64::cos), table(f64::sin)]
    }
}

/// The object of a config.json that says how positions are stretched.
struct Parameters<'a> {
    at: &'a Keys<'a>,
    object: Option<&'a Json>,
}

impl Parameters<'_> {
    fn get(&self, key: &str) -> Option<&Json> {
        self.object?.get(key).filter(|v| !v.is_null())
    }
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let number = v.as_f64().filter(|x| x.is_finite() && *x >= 0.0);
        let shown = || short(&v.to_string(), 40);
        let wrong =
            || self.at.error(format!("{key} of its rope scaling is {}, it must be a number from 0 on", shown()));
        number.map(Some).ok_or_else(wrong)
    }
    fn need(&self, key: &str) -> Result<f64> {
        let lacks = || self.at.error(format!("has rope scaling without {key}"));
        self.number(key)?.filter(|x| *x > 0.0).ok_or_else(lacks)
    }
    fn kind(&self) -> Result<String> {
        let Some(kind) = self.get("rope_type").or(self.get("type")) else {
            // A factor without a type is linear.
            return Ok(if self.get("factor").is_some() { "linear" } else { "default" }.into());
        };
        let text = kind.as_str().map(String::from);
        text.ok_or_else(|| self.at.error(format!("has rope scaling of the type {}", short(&kind.to_string(), 40))))
    }
    fn original(&self, d: &RopeDefaults) -> Result<f64> {
        let outer = self.at.optional_size("", "original_max_position_embeddings")?.map(|n| n as f64);
        let own = self.number("original_max_position_embeddings")?.filter(|n| *n >= 1.0);
        Ok(own.or(outer).unwrap_or(d.context as f64))
    }

    fn scaling(&self, d: &RopeDefaults, width: usize) -> Result<Scaling> {
        Ok(match self.kind()?.as_str() {
            // Dynamic scaling begins where max_position_embeddings ends, and so does the context here.
            "default" | "none" | "dynamic" => Scaling::None,
            "linear" => Scaling::Linear(self.need("factor")?),
            "llama3" => Scaling::Llama3 {
                factor: self.need("factor")?,
                low: self.need("low_freq_factor")?,
                high: self.need("high_freq_factor")?,
                original: self.need("original_max_position_embeddings")?,
            },
            "yarn" => {
                let original = self.original(d)?;
                let factor = self.number("factor")?.filter(|f| *f > 0.0).unwrap_or(d.context as f64 / original);
                let or = |key: &str, default: f64| -> Result<f64> {
                    Ok(self.number(key)?.filter(|x| *x > 0.0).unwrap_or(default))
                };
                Scaling::Yarn {
                    factor,
                    original,
                    fast: or("beta_fast", 32.0)?,
                    slow: or("beta_slow", 1.0)?,
                    truncate: self.get("truncate").and_then(Json::as_bool).unwrap_or(d.yarn_truncate),
                    attention: self.yarn_attention(factor)?,
                }
            }
            "longrope" | "su" => self.longrope(d, width)?,
            other => return Err(unknown(self.at, other)),
        })
    }

    fn yarn_attention(&self, factor: f64) -> Result<f64> {
        if let Some(own) = self.number("attention_factor")? {
            return Ok(own);
        }
        let scaled = |m: f64| if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 };
        match (self.number("mscale")?.filter(|m| *m > 0.0), self.number("mscale_all_dim")?.filter(|m| *m > 0.0)) {
            (Some(one), Some(all)) => Ok(scaled(one) / scaled(all)),
            _ => Ok(yarn_attention(factor)),
        }
    }

    /// The short factors: the context ends where the long ones would begin.
    fn longrope(&self, d: &RopeDefaults, width: usize) -> Result<Scaling> {
        let original = self.original(d)?;
        let factors = self.get("short_factor").and_then(Json::as_array);
        let factors: Option<Vec<f64>> = factors.and_then(|a| a.iter().map(Json::as_f64).collect());
        let half = width / 2;
        let factors = factors.filter(|f| f.len() == half && f.iter().all(|x| x.is_finite() && *x > 0.0));
        let wrong = || self.at.error(format!("has longrope scaling whose short_factor is not {half} positive numbers"));
        let factors = factors.ok_or_else(wrong)?;
        let own = self.number("attention_factor")?;
        let factor = self.number("factor")?.filter(|f| *f > 0.0).unwrap_or(d.longest() / original);
        let made = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        Ok(Scaling::Factors { factors, attention: own.unwrap_or(made) })
    }

    /// Keys of the object that mean nothing here.
    fn check_all_read(&self) -> Result<()> {
        const KNOWN: &[&str] = &[
            "rope_type",
            "type",
            "factor",
            "rope_theta",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
            "beta_fast",
            "beta_slow",
            "truncate",
            "attention_factor",
            "mscale",
            "mscale_all_dim",
            "short_factor",
            "long_factor",
            "partial_rotary_factor",
            "finetuned",
            // Positions in pictures: in text all sections have the same.
            "mrope_section",
            "mrope_interleaved",
        ];
        let object = self.object.and_then(Json::as_object);
        match object.and_then(|o| o.iter().find(|(k, v)| !KNOWN.contains(&k.as_str()) && !v.is_null())) {
            Some((key, value)) => Err(self.at.error(format!(
                "has {} = {} in its rope scaling, which this version does not compute with",
                short(key, 40),
                short(&value.to_string(), 40)
            ))),
            None => Ok(()),
        }
    }
}

impl RopeDefaults {
    fn longest(&self) -> f64 {
        self.context as f64
    }
}

fn yarn_attention(factor: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * factor.ln() + 1.0 }
}

/// Tokens that can be run, of as many as the file says: LongRoPE changes its factors behind its original context, in the
/// middle of a conversation, so it ends there.
pub fn context(at: &Keys, context: usize) -> Result<usize> {
    let object = at.json_value("rope_parameters").or(at.json_value("rope_scaling"));
    let of = |k: &str| object.and_then(|o| o.get(k)).filter(|v| !v.is_null());
    let kind = of("rope_type").or(of("type")).and_then(Json::as_str);
    let original = if at.is_gguf() {
        match at.has_tensor(SHORT_FACTORS) {
            true => at.optional_size("rope.scaling.original_context_length", "")?,
            false => None,
        }
    } else if matches!(kind, Some("longrope" | "su")) {
        let inner = of("original_max_position_embeddings").and_then(Json::as_u64).map(|n| n as usize);
        inner.or(at.optional_size("", "original_max_position_embeddings")?)
    } else {
        None
    };
    Ok(match original.filter(|n| *n < context && *n > 0) {
        Some(n) => {
            at.note(format!("the context ends at {n} of {context} tokens, where LongRoPE would change its factors"));
            n
        }
        None => context,
    })
}

fn check_width(at: &Keys, width: usize, head: usize) -> Result<()> {
    if width == 0 || width > head || !width.is_multiple_of(2) {
        return Err(
            at.error(format!("turns {width} of {head} elements of a head: an even number up to all can be run"))
        );
    }
    Ok(())
}

fn unknown(at: &Keys, kind: &str) -> crate::base::Error {
    at.error(format!(
        "has rope scaling \"{}\": none, linear, dynamic, llama3, yarn and longrope can be run",
        short(kind, 40)
    ))
}
