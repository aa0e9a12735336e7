//! Sentence embeddings from an encoder.

use super::cancel::Cancellable;
use super::choose::picked;
use super::engine::Engine;
use super::open::check_alone;
use super::{Cancel, Notice, Options};
use crate::base::{Array, Bindings, DType, Error, Result, Var};
use crate::device::Gpu;
use crate::model::layers::Sentence;
use crate::model::{Model, ModelInfo};
use crate::text::Tokenizer;
use std::sync::Arc;

/// The most sentences that are computed together, and tokens of them all: long ones come in smaller batches.
const BATCH: usize = 8;
const BATCH_TOKENS: usize = 8 * 512;

/// An encoder on a device, with its tokenizer.
///
/// ```no_run
/// use warpweft::{Embedder, Options};
///
/// # async fn embed() -> warpweft::Result<()> {
/// let mut model = Embedder::open("minilm", &Options::new()).await?;
/// let vectors = model.embed(&["a cat", "a kitten"]).await?;
/// let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
/// println!("{cosine:.3}");
/// # Ok(())
/// # }
/// ```
pub struct Embedder {
    engine: Engine,
    tokenizer: Tokenizer,
    info: ModelInfo,
    sentence: Sentence,
    tokens: usize,
    batch: usize,
    /// What fills texts to their full length, and whether their own tokens do not see it.
    padding: Option<(u32, bool)>,
}

impl Embedder {
    /// Opens a model folder.
    #[cfg(not(target_arch = "wasm32"))]
    pub async fn open(path: impl AsRef<std::path::Path>, options: &Options) -> Result<Embedder> {
        Embedder::open_telling(path, options, &mut |n| options.notices.tell(n)).await
    }

    /// Like [`Embedder::open`], for those who show notices themselves.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn open_telling(
        path: impl AsRef<std::path::Path>,
        options: &Options,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Embedder> {
        Embedder::with(&Model::new(crate::model::ModelSource::open(path)?)?, options, notify).await
    }

    /// From a model whose weights are there, or arrive later.
    pub(super) async fn with(model: &Model, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Embedder> {
        check_alone(options, &model.name)?;
        let info = model.info();
        model.notes().iter().for_each(|n| notify(Notice::Say(n.clone())));
        let sentence = model.sentence().cloned().unwrap_or_else(|| Sentence::mean(info.context));
        let tokens = options.context.unwrap_or(sentence.max_tokens).min(info.context);
        if tokens == 0 {
            return Err(Error::usage(format!(
                "the context is 0 tokens, {} was made for 1 to {}",
                info.name, info.context
            )));
        }
        let batch = if model.decoder().is_some() { 1 } else { (BATCH_TOKENS / tokens).clamp(1, BATCH) };
        let graph = model.embed_graph(Var::new("batch", batch as u32), Var::new("seq", tokens as u32))?;
        let tokenizer = match model.source.side_file("tokenizer.json") {
            _ if model.source.gguf().is_some() => super::words::Words::read(model)?.into_tokenizer(),
            Some(json) => Tokenizer::from_json(json).map_err(|e| super::words::told_of(&model.name, e, ""))?,
            None => return Err(Error::model(&model.name, "lacks tokenizer.json")),
        };
        let padding = sentence.padding.as_ref().map(|p| {
            let lacks = || Error::model(&info.name, format!("fills texts with {}, which is no token", p.token));
            tokenizer.token_id(&p.token).map(|id| (id, p.masked)).ok_or_else(lacks)
        });
        let padding = padding.transpose()?;
        if padding.is_some() && tokens != sentence.max_tokens {
            return Err(Error::usage(format!(
                "{} takes texts of {} tokens, to which they are filled: leave --ctx out",
                info.name, sentence.max_tokens
            )));
        }
        tokenizer.notes().iter().for_each(|n| notify(Notice::Say(n.clone())));
        let gpu = picked(&options.device, options, notify).await?;
        let weights = Cancellable { weights: &model.source, cancel: &options.cancel };
        let engine = Engine::new(gpu, &[graph], &weights, options, None, notify).await?;
        Ok(Embedder { engine, tokenizer, info, sentence, tokens, batch, padding })
    }

    pub(super) fn engine(&mut self) -> &mut Engine {
        &mut self.engine
    }
    /// The sizes of the model.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }
    /// The name of the device, or what the CPU does.
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// The device; `None` is the CPU.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.engine.gpu()
    }
    /// Threads of the CPU fallback; none where a device computes.
    pub fn threads(&self) -> usize {
        self.engine.threads()
    }
    /// The most bytes held at once so far.
    pub fn peak_bytes(&self) -> u64 {
        self.engine.peak_bytes()
    }
    /// The most tokens of a text that are read; what is longer is cut.
    pub fn max_tokens(&self) -> usize {
        self.tokens
    }
    /// What turns text into ids and back.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// One vector of length one for each text, in order.
    pub async fn embed(&mut self, texts: &[impl AsRef<str>]) -> Result<Vec<Vec<f32>>> {
        self.embed_until(texts, &Cancel::new()).await
    }

    /// Like [`Embedder::embed`], until `cancel` is set.
    ///
    /// # Errors
    /// [`Error::Cancelled`] then.
    pub async fn embed_until(&mut self, texts: &[impl AsRef<str>], cancel: &Cancel) -> Result<Vec<Vec<f32>>> {
        let width = self.info.embedding.unwrap_or(self.info.width);
        let mut out: Vec<Vec<f32>> = vec![];
        for group in texts.chunks(self.batch) {
            let mut ids = group.iter().map(|t| self.ids(t.as_ref())).collect::<Result<Vec<_>>>()?;
            let fill = |r: &mut Vec<u32>| {
                if let Some((pad, _)) = self.padding {
                    r.resize(self.tokens, pad)
                }
            };
            let unseen = self.padding.is_some_and(|p| p.1);
            ids.iter_mut().filter(|_| !unseen).for_each(fill);
            let own: Vec<usize> = ids.iter().map(Vec::len).collect();
            ids.iter_mut().for_each(fill);
            let longest = ids.iter().map(Vec::len).max().unwrap_or(1);
            let mask: Vec<u32> = own.iter().flat_map(|n| (0..longest).map(move |i| (i < *n) as u32)).collect();
            ids.iter_mut().for_each(|r| r.resize(longest, 0));
            let shape = [ids.len(), longest];
            let tokens = Array::u32(&shape, &ids.concat());
            let mask = Array { dtype: DType::Bool, ..Array::u32(&shape, &mask) };
            let bindings = Bindings::new().with("batch", shape[0] as u64).with("seq", longest as u64);
            let y = self
                .engine
                .step(0, 0, &bindings, &[("tokens", tokens), ("mask", mask)], &["embeddings"], cancel.flag())
                .await?
                .remove(0)
                .to_f32();
            if let Some(at) = y.iter().position(|x| !x.is_finite()) {
                let (text, element) = (out.len() + at / width, at % width);
                return Err(Error::model(
                    &self.info.name,
                    format!("gives text {text} an embedding whose element {element} is {}: it is not finite", y[at]),
                ));
            }
            out.extend(y.chunks_exact(width).map(<[f32]>::to_vec));
        }
        Ok(out)
    }

    /// Ids of a text with its markers, cut to what is read.
    fn ids(&self, text: &str) -> Result<Vec<u32>> {
        let text = format!("{}{text}", self.sentence.prompt);
        let text = if self.sentence.trim { text.trim() } else { &text };
        let text = if self.sentence.lower_case { text.to_lowercase() } else { text.to_string() };
        let text = if self.sentence.plain { plain(&text) } else { text };
        let mut ids = self.tokenizer.encode(&text, true)?;
        if ids.len() > self.tokens {
            ids = self.cut(ids, &self.tokenizer.encode(&text, false)?);
        }
        match ids.iter().find(|i| **i as usize >= self.info.vocab) {
            Some(id) => Err(Error::usage(format!("token {id} is outside of the vocabulary of {}", self.info.vocab))),
            None if ids.is_empty() => Err(Error::usage("a text has no tokens")),
            None => Ok(ids),
        }
    }

    /// As many of `ids` as are read, with the markers that stand behind the text's own tokens, `plain`.
    fn cut(&self, mut ids: Vec<u32>, plain: &[u32]) -> Vec<u32> {
        let markers = ids.len().saturating_sub(plain.len());
        let before = (0..=markers).find(|n| ids[*n..].starts_with(plain));
        let behind = before.map_or(0, |n| markers - n).min(self.tokens);
        let last = ids.split_off(ids.len() - behind);
        ids.truncate(self.tokens - behind);
        ids.extend(last);
        ids
    }
}

/// A text without punctuation of ASCII, with one space between words.
fn plain(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_ascii_punctuation()).collect();
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}
