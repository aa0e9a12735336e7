//! Speech to text.

use super::cancel::Cancellable;
use super::choose::picked;
use super::engine::Engine;
use super::open::check_alone;
use super::speaking::{Listening, Rules, log_softmax};
use super::{Cancel, Notice, Options};
use crate::base::{Array, Bindings, Error, Result, Var};
use crate::device::Gpu;
use crate::media::{self, LogMel, Sound};
use crate::model::layers::Speech;
use crate::model::{Model, ModelSource};
use crate::text::Tokenizer;
use std::path::Path;
use std::sync::Arc;

/// Tokens of a prompt that are computed together.
const CHUNK: u32 = 16;

/// A piece of a transcript.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Seconds from the beginning, where there are timestamps.
    pub times: Option<(f64, f64)>,
    /// What was said.
    pub text: String,
    /// Its tokens, timestamps among them.
    pub tokens: Vec<u32>,
}

/// A model of the type whisper on a device.
pub struct Transcriber {
    hearing: Engine,
    writing: Engine,
    tokenizer: Tokenizer,
    rules: Rules,
    mel: LogMel,
    speech: Speech,
    name: String,
}

impl Transcriber {
    /// Opens a model folder.
    ///
    /// # Errors
    /// A model that hears no speech; keys of its generation_config.json or preprocessor_config.json that cannot be obeyed.
    pub async fn open(path: impl AsRef<Path>, options: &Options) -> Result<Transcriber> {
        Transcriber::open_telling(path, options, &mut |n| options.notices.tell(n)).await
    }

    /// Like [`Transcriber::open`], for those who show notices themselves.
    pub(crate) async fn open_telling(
        path: impl AsRef<Path>,
        options: &Options,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Transcriber> {
        let model = Model::new(ModelSource::open(path)?)?;
        check_alone(options, &model.name)?;
        if options.context.is_some() {
            return Err(Error::usage(format!("{} writes as much as its file says: leave --ctx out", model.name)));
        }
        model.notes().iter().for_each(|n| notify(Notice::Say(n.clone())));
        let hear = model.hear_graph()?;
        let speech = model.speech().cloned().ok_or_else(|| Error::model(&model.name, "hears no speech"))?;
        let source = &model.source;
        let read = |name: &str| -> Result<Option<serde_json::Value>> {
            let Some(bytes) = source.side_file(name) else { return Ok(None) };
            let parsed = crate::base::json::parse(bytes);
            parsed.map(Some).map_err(|e| Error::file(source.path().join(name), format!("is not valid JSON: {e}")))
        };
        let mel = match (read("preprocessor_config.json")?, read("processor_config.json")?) {
            (Some(own), _) => LogMel::read(&own, &source.path().join("preprocessor_config.json"))?,
            (None, Some(all)) => LogMel::read(&all["feature_extractor"], &source.path().join("processor_config.json"))?,
            (None, None) => return Err(Error::file(source.path(), "lacks preprocessor_config.json")),
        };
        if mel.frames() != speech.frames() || mel.bands != speech.bands {
            return Err(Error::model(
                &model.name,
                format!(
                    "hears {} frames of {} bands, and its preprocessor_config.json makes {} of {}",
                    speech.frames(),
                    speech.bands,
                    mel.frames(),
                    mel.bands
                ),
            ));
        }
        let config = source.config()?.unwrap_or_default();
        let rules = Rules::read(&config, read("generation_config.json")?.as_ref(), &speech, &model.name, notify)?;
        let json =
            source.side_file("tokenizer.json").ok_or_else(|| Error::model(&model.name, "lacks tokenizer.json"))?;
        let tokenizer = Tokenizer::from_json(json).map_err(|e| super::words::told_of(&model.name, e, ""))?;
        let total = Var::new("total", speech.decoder.context as u32);
        let chunk = CHUNK.min(speech.decoder.context as u32);
        let mut write = vec![model.write_graph(Var::new("seq", chunk).into(), total)?];
        let gpu = picked(&options.device, options, notify).await?;
        if gpu.is_some() {
            write.push(model.write_graph(1.into(), total)?);
        }
        let weights = Cancellable { weights: &model.source, cancel: &options.cancel };
        let hearing = Engine::new(gpu.clone(), &[hear], &weights, options, None, notify).await?;
        let writing = Engine::new(gpu, &write, &weights, options, None, notify).await?;
        Ok(Transcriber { hearing, writing, tokenizer, rules, mel, speech, name: model.name.clone() })
    }

    /// The name of the device, or what the CPU does.
    pub fn adapter(&self) -> String {
        self.writing.adapter()
    }
    /// The device; `None` is the CPU.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.writing.gpu()
    }
    /// The most bytes that either half held at once.
    pub fn peak_bytes(&self) -> u64 {
        match self.gpu() {
            Some(_) => self.writing.peak_bytes(),
            None => self.writing.peak_bytes() + self.hearing.peak_bytes(),
        }
    }
    /// Samples per second that the model hears.
    pub fn rate(&self) -> u32 {
        self.mel.rate
    }

    /// The transcript of a WAV file's bytes, piece by piece; `name` is for messages.
    ///
    /// # Errors
    /// Files that are no WAV, damaged or without samples; a language that the model does not know; [`Error::Cancelled`] once
    /// `cancel` is set; what `each` returns.
    pub async fn transcribe(
        &mut self,
        bytes: &[u8],
        name: &Path,
        how: &Listening,
        cancel: &Cancel,
        each: &mut dyn FnMut(&Segment) -> Result<()>,
    ) -> Result<()> {
        let sound = media::decode_wav(bytes, name)?.at_rate(self.mel.rate)?;
        self.hear(sound, how, cancel, each).await
    }

    /// The same of a sound at the model's rate.
    ///
    /// # Errors
    /// The same.
    pub async fn hear(
        &mut self,
        sound: Sound,
        how: &Listening,
        cancel: &Cancel,
        each: &mut dyn FnMut(&Segment) -> Result<()>,
    ) -> Result<()> {
        if sound.rate != self.mel.rate {
            return Err(Error::usage(format!(
                "the sound has {} samples per second, not {}",
                sound.rate, self.mel.rate
            )));
        }
        let mut samples = sound.samples;
        let (window, frames) = (self.mel.samples(), self.mel.frames());
        let long = samples.len() > window;
        let timestamps = how.timestamps || long;
        if timestamps && self.rules.no_timestamps.is_none() {
            return Err(Error::model(
                &self.name,
                "has no no_timestamps_token_id in generation_config.json: sounds of one window without times can be transcribed",
            ));
        }
        if !long {
            samples.resize(window, 0.0);
        }
        let mel = self.mel.of(&samples)?;
        let of_all = samples.len() / self.mel.hop;
        drop(samples);
        let mut at = 0;
        let mut start: Option<Vec<u32>> = None;
        while at < of_all {
            let there = frames.min(of_all - at);
            // Frames behind the end are zeros.
            let mut piece = vec![0.0f32; self.mel.bands * frames];
            for band in 0..self.mel.bands {
                let row = &mel[band * of_all + at..][..there];
                piece[band * frames..][..there].copy_from_slice(row);
            }
            self.listen(piece, cancel).await?;
            if start.is_none() {
                start = Some(self.beginning(how, timestamps, cancel).await?);
            }
            let tokens = self.answer(start.as_deref().unwrap_or_default(), timestamps, cancel).await?;
            let (segments, passed) = match timestamps {
                true => self.segments(&tokens, at, there)?,
                false => (vec![Segment { times: None, text: self.text(&tokens)?, tokens }], there),
            };
            segments.iter().try_for_each(&mut *each)?;
            at += passed.max(1);
        }
        Ok(())
    }

    /// The encoder's work on one window, kept for the decoder.
    async fn listen(&mut self, mel: Vec<f32>, cancel: &Cancel) -> Result<()> {
        let input = Array::f32(&[self.mel.bands, self.mel.frames()], &mel);
        let names = self.speech.heard();
        let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let heard = self.hearing.step(0, 0, &Bindings::new(), &[("mel", input)], &outputs, cancel.flag()).await?;
        names.iter().zip(&heard).try_for_each(|(name, array)| self.writing.set_state(name, array))
    }

    /// Logits behind `tokens`, of which those before `from` are in the cache.
    async fn logits(&mut self, tokens: &[u32], from: usize, cancel: &Cancel) -> Result<Vec<f32>> {
        let (mut logits, mut from) = (vec![], from);
        while from < tokens.len() {
            let piece = &tokens[from..(from + CHUNK as usize).min(tokens.len())];
            let bindings = Bindings::new().with("total", (from + piece.len()) as u64);
            let alone = piece.len() == 1 && self.writing.gpu().is_some();
            let bindings = if alone { bindings } else { bindings.with("seq", piece.len() as u64) };
            let input = Array::u32(&[piece.len()], piece);
            let out =
                self.writing.step(alone.into(), 0, &bindings, &[("tokens", input)], &["logits"], cancel.flag()).await?;
            logits = out.into_iter().next().map(|a| a.to_f32()).unwrap_or_default();
            from += piece.len();
        }
        match logits.iter().position(|x| !x.is_finite()) {
            Some(at) => {
                Err(Error::model(&self.name, format!("gives token {at} the logit {}: it is not finite", logits[at])))
            }
            None => Ok(logits),
        }
    }

    /// What stands before every text.
    async fn beginning(&mut self, how: &Listening, timestamps: bool, cancel: &Cancel) -> Result<Vec<u32>> {
        let mut language = None;
        if self.rules.asks_language(how, &self.name)? {
            let start = [self.rules.start];
            let logits = self.logits(&start, 0, cancel).await?;
            language = self.rules.likeliest_language(&logits);
        }
        self.rules.beginning(how, timestamps, language, &self.name)
    }

    /// Tokens behind `start`, without the end.
    async fn answer(&mut self, start: &[u32], timestamps: bool, cancel: &Cancel) -> Result<Vec<u32>> {
        let (mut tokens, mut done) = (start.to_vec(), 0);
        let most = self.rules.most_tokens(start.len(), self.speech.decoder.context);
        while tokens.len() < most {
            let mut logits = self.logits(&tokens, done, cancel).await?;
            done = tokens.len();
            self.rules.forbid(&mut logits, &tokens[start.len()..], timestamps);
            let best =
                logits.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, x)| if *x > b.1 { (i, *x) } else { b });
            if best.1 == f32::NEG_INFINITY || self.rules.ends.contains(&(best.0 as u32)) {
                break;
            }
            tokens.push(best.0 as u32);
        }
        Ok(tokens.split_off(start.len()))
    }

    fn text(&self, tokens: &[u32]) -> Result<String> {
        let words: Vec<u32> = tokens.iter().copied().filter(|t| !self.rules.is_time(*t)).collect();
        self.tokenizer.decode(&words, true)
    }

    /// Pieces between timestamps, and the frames that are done with: what was begun and not ended is heard again.
    fn segments(&self, tokens: &[u32], at: usize, there: usize) -> Result<(Vec<Segment>, usize)> {
        let second = f64::from(self.mel.rate) / self.mel.hop as f64;
        // A timestamp counts rows of the encoder, of two frames.
        let frames = |token: u32| 2 * self.rules.time(token) as usize;
        let piece = |tokens: &[u32], from: usize, to: usize| -> Result<Segment> {
            let times = Some(((at + from) as f64 / second, (at + to) as f64 / second));
            Ok(Segment { times, text: self.text(tokens)?, tokens: tokens.to_vec() })
        };
        let is_time = |i: usize| tokens.get(i).is_some_and(|t| self.rules.is_time(*t));
        let n = tokens.len();
        let single = n >= 2 && !is_time(n - 2) && is_time(n - 1);
        let mut cuts: Vec<usize> = (1..n).filter(|i| is_time(i - 1) && is_time(*i)).collect();
        if cuts.is_empty() {
            let last = tokens.iter().rev().find(|t| self.rules.is_time(**t)).map_or(0, |t| frames(*t));
            let to = if last == 0 { there } else { last };
            return Ok((vec![piece(tokens, 0, to)?], there));
        }
        if single {
            cuts.push(n);
        }
        let mut made = vec![];
        let mut from = 0;
        for cut in cuts {
            let part = &tokens[from..cut];
            made.push(piece(part, frames(part[0]), frames(part[part.len() - 1]))?);
            from = cut;
        }
        let passed = if single { there } else { frames(tokens[from - 1]) };
        Ok((made, passed))
    }

    /// ln p of every token behind `tokens`, for who compares models.
    ///
    /// # Errors
    /// Device faults; logits that are not finite.
    pub async fn log_probabilities(&mut self, sound: &Sound, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut samples = sound.samples.clone();
        samples.resize(self.mel.samples(), 0.0);
        let (mel, never) = (self.mel.of(&samples)?, Cancel::new());
        self.listen(mel, &never).await?;
        Ok(log_softmax(&self.logits(tokens, 0, &never).await?))
    }
}
