//! Vectors of images, in the space of the texts'.

use super::cancel::Cancellable;
use super::choose::picked;
use super::engine::Engine;
use super::open::check_alone;
use super::{Cancel, Notice, Options};
use crate::base::{Array, Bindings, Error, Result, Var};
use crate::device::Gpu;
use crate::media::{self, Family, Picture, Preprocess};
use crate::model::layers::Vision;
use crate::model::{Model, ModelSource};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most images that are computed together, and rows of them all.
const BATCH: usize = 4;
const BATCH_ROWS: usize = 1024;

/// The vision tower of a model of images and texts (CLIP, SigLIP) on a device. Its vectors are compared with those that
/// an [`Embedder`](super::Embedder) of the same model makes of texts.
pub struct ImageEmbedder {
    engine: Engine,
    name: String,
    tower: Vision,
    preprocess: Preprocess,
    width: usize,
    batch: usize,
}

impl ImageEmbedder {
    /// Opens a model folder.
    ///
    /// # Errors
    /// A model that sees no images, or whose preprocessor_config.json cannot be obeyed, by name.
    pub async fn open(path: impl AsRef<Path>, options: &Options) -> Result<ImageEmbedder> {
        ImageEmbedder::open_telling(path, options, &mut |n| options.notices.tell(n)).await
    }

    /// Like [`ImageEmbedder::open`], for those who show notices themselves.
    pub(crate) async fn open_telling(
        path: impl AsRef<Path>,
        options: &Options,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<ImageEmbedder> {
        let model = Model::new(ModelSource::open(path)?)?;
        check_alone(options, &model.name)?;
        let tower = model.vision().cloned();
        let batch = tower.as_ref().map_or(1, |t| (BATCH_ROWS / t.common.context).clamp(1, BATCH));
        let graph = model.image_graph(Var::new("batch", batch as u32))?;
        let tower = tower.ok_or_else(|| Error::model(&model.name, "sees no images"))?;
        let preprocess = preprocess(&model.source, model.info().family)?;
        let gpu = picked(&options.device, options, notify).await?;
        let weights = Cancellable { weights: &model.source, cancel: &options.cancel };
        let engine = Engine::new(gpu, &[graph], &weights, options, None, notify).await?;
        let width = model.info().embedding.unwrap_or(tower.common.width);
        Ok(ImageEmbedder { engine, name: model.name.clone(), tower, preprocess, width, batch })
    }

    /// One vector of length one for each file (JPEG, PNG or WebP), in order.
    ///
    /// # Errors
    /// Files that are no images, damaged or too large; [`Error::Cancelled`] once `cancel` is set.
    pub async fn embed_files(&mut self, files: &[PathBuf], cancel: &Cancel) -> Result<Vec<Vec<f32>>> {
        let mut out = vec![];
        for group in files.chunks(self.batch) {
            let patches = group.iter().map(|path| self.patches(&media::read_file(path)?, path));
            let patches = patches.collect::<Result<Vec<_>>>()?;
            out.extend(self.step(patches, out.len(), cancel).await?);
        }
        Ok(out)
    }

    /// The same of one file's bytes; `name` is for messages.
    ///
    /// # Errors
    /// The same.
    pub async fn embed_bytes(&mut self, bytes: &[u8], name: &Path, cancel: &Cancel) -> Result<Vec<f32>> {
        let patches = self.patches(bytes, name)?;
        Ok(self.step(vec![patches], 0, cancel).await?.remove(0))
    }

    fn patches(&self, bytes: &[u8], path: &Path) -> Result<Vec<f32>> {
        let picture = media::decode(bytes, path)?;
        let side = self.tower.image;
        let made = |p: &Picture| self.preprocess.sides(p);
        if made(&picture) != [side; 2] {
            let [h, w] = made(&picture);
            return Err(Error::model(
                &self.name,
                format!(
                    "sees images of {side} × {side} pixels, and its preprocessor_config.json makes {w} × {h} of {}",
                    path.display()
                ),
            ));
        }
        let pixels = self.preprocess.apply(&picture).map_err(|e| Error::file(path, e.to_string()))?;
        Ok(self.tower.patches(&pixels.values))
    }

    async fn step(&mut self, patches: Vec<Vec<f32>>, before: usize, cancel: &Cancel) -> Result<Vec<Vec<f32>>> {
        let (n, side) = (patches.len(), self.tower.side());
        let input = Array::f32(&[n, side * side, self.tower.patch_elements()], &patches.concat());
        let bindings = Bindings::new().with("batch", n as u64);
        let y = self.engine.step(0, 0, &bindings, &[("patches", input)], &["embeddings"], cancel.flag()).await?;
        let y = y.into_iter().next().map(|a| a.to_f32()).unwrap_or_default();
        if let Some(at) = y.iter().position(|x| !x.is_finite()) {
            let (image, element) = (before + at / self.width, at % self.width);
            let what =
                format!("gives image {image} an embedding whose element {element} is {}: it is not finite", y[at]);
            return Err(Error::model(&self.name, what));
        }
        Ok(y.chunks_exact(self.width).map(<[f32]>::to_vec).collect())
    }

    /// The name of the device, or what the CPU does.
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// The device; `None` is the CPU.
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        self.engine.gpu()
    }
    /// The most bytes held at once so far.
    pub fn peak_bytes(&self) -> u64 {
        self.engine.peak_bytes()
    }
}

/// What the folder says of pictures: newer ones keep it within processor_config.json.
fn preprocess(source: &ModelSource, family: &str) -> Result<Preprocess> {
    let family = if family == "clip" { Family::Clip } else { Family::Siglip };
    let read = |name: &str| -> Result<Option<serde_json::Value>> {
        let Some(bytes) = source.side_file(name) else { return Ok(None) };
        let parsed = crate::base::json::parse(bytes);
        parsed.map(Some).map_err(|e| Error::file(source.path().join(name), format!("is not valid JSON: {e}")))
    };
    for name in ["preprocessor_config.json", "processor_config.json"] {
        let Some(json) = read(name)? else { continue };
        let own = if name == "processor_config.json" { json.get("image_processor") } else { Some(&json) };
        if let Some(own) = own {
            return Preprocess::read(own, family, &source.path().join(name));
        }
    }
    Err(Error::file(source.path(), "lacks preprocessor_config.json, which says what is done to an image"))
}
