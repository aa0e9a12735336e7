//! Which tokens a model of speech begins with, and which it may not write: what generation_config.json says.

use super::Notice;
use super::transcribe::Listening;
use crate::base::{Error, Result};
use crate::model::layers::Speech;
use serde_json::Value as Json;

/// The rules of a model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    pub(super) start: u32,
    pub(super) ends: Vec<u32>,
    /// The token that says that there will be no timestamps; they are the tokens behind it.
    pub(super) no_timestamps: Option<u32>,
    suppress: Vec<u32>,
    begin_suppress: Vec<u32>,
    /// What older files put behind the first token, from place 1 on; nothing is what is to be heard.
    forced: Vec<Option<u32>>,
    /// Languages by their names, such as `<|en|>`.
    languages: Vec<(String, u32)>,
    tasks: Vec<(String, u32)>,
    language: Option<String>,
    task: Option<String>,
    most: Option<usize>,
    /// The latest timestamp that a text may begin with.
    most_initial: Option<u32>,
}

/// Keys that other models or other ways of decoding have, and what they are where they change nothing.
fn is_neutral(key: &str, value: &Json) -> bool {
    let one = |x: f64| value.as_f64() == Some(x);
    match key {
        "num_beams"
        | "num_beam_groups"
        | "temperature"
        | "repetition_penalty"
        | "length_penalty"
        | "top_p"
        | "num_return_sequences"
        | "encoder_repetition_penalty"
        | "typical_p" => one(1.0),
        "top_k" => value.is_number(),
        "return_timestamps" => *value == Json::Bool(false),
        _ => value.is_null() || *value == Json::Bool(false) || one(0.0) || value.as_array().is_some_and(Vec::is_empty),
    }
}

const READ: &[&str] = &[
    "decoder_start_token_id",
    "eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_decoder_ids",
    "no_timestamps_token_id",
    "lang_to_id",
    "task_to_id",
    "language",
    "task",
    "max_length",
    "max_initial_timestamp_index",
    "is_multilingual",
];
/// What says nothing of which token is taken.
const HARMLESS: &[&str] = &[
    "alignment_heads",
    "bos_token_id",
    "pad_token_id",
    "prev_sot_token_id",
    "transformers_version",
    "_from_model_config",
    "use_cache",
    "median_filter_width",
    "early_stopping",
    "return_dict_in_generate",
    "output_scores",
    "hop_length",
];

fn short(value: &Json) -> String {
    value.to_string().chars().take(60).collect()
}

/// What a folder says: generation_config.json, and config.json for what that leaves out.
struct Given<'a> {
    of: &'a Json,
    config: &'a Json,
    vocab: u64,
    model: &'a str,
}

impl Given<'_> {
    fn error(&self, what: impl Into<String>) -> Error {
        Error::model(self.model, what)
    }
    fn own(&self, key: &str) -> Option<&Json> {
        self.of.get(key).filter(|v| !v.is_null())
    }
    fn token(&self, key: &str, v: &Json) -> Result<u32> {
        let id = v.as_u64().filter(|n| *n < self.vocab).map(|n| n as u32);
        id.ok_or_else(|| self.error(format!("has {key} = {}, which is no token of {}", short(v), self.vocab)))
    }
    /// One token or a list of them. What begins and ends a text config.json may say, too.
    fn tokens(&self, key: &str) -> Result<Vec<u32>> {
        let both = ["decoder_start_token_id", "eos_token_id"].contains(&key);
        let other = self.config.get(key).filter(|v| both && !v.is_null());
        match self.own(key).or(other) {
            None => Ok(vec![]),
            Some(Json::Array(all)) => all.iter().map(|v| self.token(key, v)).collect(),
            Some(one) => Ok(vec![self.token(key, one)?]),
        }
    }
    fn map(&self, key: &str) -> Result<Vec<(String, u32)>> {
        let all = self.own(key).and_then(Json::as_object).into_iter().flatten();
        all.map(|(name, v)| Ok((name.clone(), self.token(key, v)?))).collect()
    }
    fn text(&self, key: &str) -> Option<String> {
        self.own(key).and_then(Json::as_str).map(String::from)
    }
    /// What stands at the places 1, 2, … of a text.
    fn forced(&self) -> Result<Vec<Option<u32>>> {
        let key = "forced_decoder_ids";
        let all = self.own(key).or(self.config.get(key)).and_then(Json::as_array);
        let one = |(i, pair): (usize, &Json)| {
            if pair.get(0).and_then(Json::as_u64) != Some(i as u64 + 1) {
                return Err(self.error(format!("has {key} that are not of the places 1, 2, …: {}", short(pair))));
            }
            pair.get(1).filter(|v| !v.is_null()).map(|v| self.token(key, v)).transpose()
        };
        all.into_iter().flatten().enumerate().map(one).collect()
    }
}

impl Rules {
    pub(super) fn read(
        config: &Json,
        generation: Option<&Json>,
        speech: &Speech,
        model: &str,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Rules> {
        // Older folders keep all of it in config.json.
        let at = Given { of: generation.unwrap_or(config), config, vocab: speech.decoder.vocab as u64, model };
        for (key, value) in generation.and_then(Json::as_object).into_iter().flatten() {
            if !READ.contains(&&**key) && !HARMLESS.contains(&&**key) && !is_neutral(key, value) {
                let shown = short(value);
                let what =
                    format!("has {key} = {shown} in generation_config.json, which this version does not decode by");
                return Err(at.error(what));
            }
        }
        let start = at.tokens("decoder_start_token_id")?.first().copied();
        let ends = at.tokens("eos_token_id")?;
        if ends.is_empty() {
            return Err(at.error("lacks eos_token_id, which ends its texts"));
        }
        if generation.is_none() {
            notify(Notice::Say(format!(
                "{model}: lacks generation_config.json: config.json says which tokens it may not write"
            )));
        }
        let number = |key: &str| at.own(key).and_then(Json::as_u64).map(|n| n.min(u64::from(u32::MAX)) as u32);
        Ok(Rules {
            start: start.ok_or_else(|| at.error("lacks decoder_start_token_id, which begins its texts"))?,
            ends,
            no_timestamps: at.tokens("no_timestamps_token_id")?.first().copied(),
            suppress: at.tokens("suppress_tokens")?,
            begin_suppress: at.tokens("begin_suppress_tokens")?,
            forced: at.forced()?,
            languages: at.map("lang_to_id")?,
            tasks: at.map("task_to_id")?,
            language: at.text("language"),
            task: at.text("task"),
            most: number("max_length").map(|n| n as usize),
            most_initial: number("max_initial_timestamp_index"),
        })
    }

    /// A language's token.
    fn language_token(&self, name: &str, model: &str) -> Result<u32> {
        let name = name.to_lowercase();
        let marked = format!("<|{name}|>");
        let found = self.languages.iter().find(|(n, _)| *n == name || *n == marked);
        found.map(|f| f.1).ok_or_else(|| {
            let mut known: Vec<&str> = self.languages.iter().map(|l| l.0.trim_matches(['<', '|', '>'])).collect();
            known.sort_unstable();
            let hint =
                if known.is_empty() { "it has one language: leave --language out".into() } else { known.join(", ") };
            Error::model(model, format!("knows no language \"{name}\": {hint}"))
        })
    }

    /// Whether the language is to be heard first.
    pub(super) fn asks_language(&self, how: &Listening, model: &str) -> Result<bool> {
        if let Some(name) = how.language.as_ref().or(self.language.as_ref()) {
            return self.language_token(name, model).map(|_| false);
        }
        let own_task = how.translate || self.task.is_some();
        Ok(!self.languages.is_empty() && (own_task || self.forced.first().is_none_or(Option::is_none)))
    }

    pub(super) fn likeliest_language(&self, logits: &[f32]) -> Option<u32> {
        let of = |id: u32| logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        self.languages.iter().map(|l| l.1).max_by(|a, b| of(*a).total_cmp(&of(*b)).then(b.cmp(a)))
    }

    /// The tokens before a text; `heard` is its language.
    pub(super) fn beginning(
        &self,
        how: &Listening,
        timestamps: bool,
        heard: Option<u32>,
        model: &str,
    ) -> Result<Vec<u32>> {
        let task = if how.translate { Some("translate") } else { self.task.as_deref() };
        let named = how.language.as_ref().or(self.language.as_ref());
        let mut out = vec![Some(self.start)];
        // What older files force counts only where nobody says more.
        if task.is_none() && named.is_none() {
            out.extend(&self.forced);
        }
        let language = match named {
            Some(name) => Some(self.language_token(name, model)?),
            None => heard,
        };
        match out.get_mut(1) {
            Some(second) if language.is_some() => *second = language,
            Some(_) => {}
            None => out.extend(language.map(Some)),
        }
        let mut out: Vec<u32> = out.into_iter().flatten().collect();
        let of_task = |name: &str| self.tasks.iter().find(|t| t.0 == name).map(|t| t.1);
        if let Some(name) = task {
            out.push(of_task(name).ok_or_else(|| Error::model(model, format!("knows no task \"{name}\"")))?);
        } else if named.is_some() && !self.tasks.iter().any(|t| out.contains(&t.1)) {
            out.extend(of_task("transcribe"));
        }
        if let Some(none) = self.no_timestamps {
            if timestamps {
                out.retain(|t| *t != none);
            } else if out.last() != Some(&none) {
                out.push(none);
            }
        }
        Ok(out)
    }

    /// Tokens of a text with its beginning.
    pub(super) fn most_tokens(&self, beginning: usize, context: usize) -> usize {
        let first = (context / 2).saturating_sub(1).min(beginning.saturating_sub(1));
        self.most.map_or(context, |n| n.saturating_add(first)).min(context)
    }

    pub(super) fn is_time(&self, token: u32) -> bool {
        self.no_timestamps.is_some_and(|none| token > none)
    }
    /// Rows of the encoder before a timestamp.
    pub(super) fn time(&self, token: u32) -> u32 {
        token.saturating_sub(self.no_timestamps.map_or(token, |none| none + 1))
    }

    /// Takes from the choice what may not follow `written`.
    pub(super) fn forbid(&self, logits: &mut [f32], written: &[u32], timestamps: bool) {
        let mut never = |ids: &[u32]| {
            for id in ids {
                if let Some(x) = logits.get_mut(*id as usize) {
                    *x = f32::NEG_INFINITY;
                }
            }
        };
        never(&self.suppress);
        if written.is_empty() {
            never(&self.begin_suppress);
        }
        if let (true, Some(none)) = (timestamps, self.no_timestamps) {
            self.forbid_by_time(logits, written, none as usize);
        }
    }

    /// Timestamps come in pairs that end a piece and begin the next, they do not go back, and a text begins with one.
    fn forbid_by_time(&self, logits: &mut [f32], written: &[u32], none: usize) {
        let n = logits.len();
        let first = (none + 1).min(n);
        let never = |logits: &mut [f32], range: std::ops::Range<usize>| {
            let end = range.end.min(n);
            if range.start < end {
                logits[range.start..end].fill(f32::NEG_INFINITY);
            }
        };
        never(logits, none..none + 1);
        let is_time = |t: Option<&u32>| t.is_some_and(|t| *t as usize >= first);
        let last = is_time(written.last());
        let before = written.len() < 2 || is_time(written.get(written.len() - 2));
        if last && before {
            never(logits, first..n);
        } else if last {
            never(logits, 0..self.ends.first().map_or(0, |e| *e as usize));
        }
        if let Some(newest) = written.iter().rev().find(|t| is_time(Some(t))) {
            let from = *newest as usize + usize::from(!(last && !before));
            never(logits, first..from);
        }
        if written.is_empty() {
            never(logits, 0..first);
            if let Some(most) = self.most_initial {
                never(logits, first + most as usize + 1..n);
            }
        }
        let p = log_softmax(logits);
        let times = &p[first..];
        let high = times.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum = if high.is_finite() { high + times.iter().map(|x| (x - high).exp()).sum::<f32>().ln() } else { high };
        if sum > p[..first].iter().copied().fold(f32::NEG_INFINITY, f32::max) {
            never(logits, 0..first);
        }
    }
}

/// ln p of each token; what was forbidden stays at −∞.
pub(super) fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let high = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - high).exp()).sum();
    logits.iter().map(|x| (f64::from(x - high) - sum.ln()) as f32).collect()
}
