//! A model that opens while its file arrives.

use super::{DeviceChoice, Embedder, Generator, Notice, Options, pick};
use crate::base::{Error, Result};
use crate::model::source::Cursor;
use crate::model::{Family, Model, ModelSource};
use std::collections::HashMap;

/// Bytes of a head that are waited for before it is first read; then for twice as many, and so on.
const FIRST: usize = 64 << 10;

/// Takes the bytes of a model's file in order. On a device they go there as they come: the host holds the file's head, then
/// the piece at hand. On the CPU all are kept, for that is where they are used; and for a mesh, whose ranks take pieces in
/// orders of their own.
pub struct Loading {
    name: String,
    size: Option<u64>,
    side: HashMap<String, Vec<u8>>,
    options: Options,
    stage: Stage,
}

enum Stage {
    Head { bytes: Vec<u8>, enough: usize },
    Device { model: Box<Model>, cursor: Cursor, opened: Opened },
    Memory { model: Box<Model>, cursor: Cursor },
}

/// What a file turned out to be.
pub enum Opened {
    Generator(Box<Generator>),
    Embedder(Box<Embedder>),
}

impl Opened {
    async fn with(model: &Model, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Opened> {
        Ok(match model.family {
            Family::Llama(_) => Opened::Generator(Box::new(Generator::with(model, options, notify).await?)),
            Family::Bert(_) => Opened::Embedder(Box::new(Embedder::with(model, options, notify).await?)),
        })
    }
    fn engine(&mut self) -> &mut super::Engine {
        match self {
            Opened::Generator(g) => g.engine(),
            Opened::Embedder(e) => e.engine(),
        }
    }
}

impl Loading {
    /// `size` is the whole file's, if it is known; `side` are the small files of a model folder, by name.
    pub fn new(name: &str, size: Option<u64>, side: HashMap<String, Vec<u8>>, options: Options) -> Loading {
        Loading { name: name.into(), size, side, options, stage: Stage::Head { bytes: vec![], enough: FIRST } }
    }

    /// Takes the file's next bytes.
    ///
    /// # Errors
    /// A file that is damaged or cannot be run, a device that is too small: as early as the bytes tell.
    pub async fn push(&mut self, bytes: &[u8], notify: &mut dyn FnMut(Notice)) -> Result<()> {
        match &mut self.stage {
            Stage::Head { bytes: head, enough } => {
                head.extend_from_slice(bytes);
                if head.len() < *enough && self.size.is_none_or(|n| (head.len() as u64) < n) {
                    return Ok(());
                }
                *enough = head.len() * 2;
                self.begin(notify).await
            }
            Stage::Device { model, cursor, opened } => {
                for piece in cursor.push(&model.source, bytes) {
                    let t = &model.source.tensors()[piece.tensor];
                    opened.engine().feed(&t.name, piece.block, &t.ty.widened(&piece.bytes)).await?;
                }
                Ok(())
            }
            Stage::Memory { model, cursor } => {
                for piece in cursor.push(&model.source, bytes) {
                    model.source.keep(&piece);
                }
                Ok(())
            }
        }
    }

    /// The model, once all bytes were pushed.
    ///
    /// # Errors
    /// A file that ended too early.
    pub async fn finish(mut self, notify: &mut dyn FnMut(Notice)) -> Result<Opened> {
        if let Stage::Head { bytes, .. } = &self.stage {
            self.size.get_or_insert(bytes.len() as u64);
            self.begin(notify).await?;
        }
        match self.stage {
            Stage::Head { bytes, .. } => Err(Error::file(&self.name, format!("ends at byte {} inside of its head: download it again", bytes.len()))),
            Stage::Device { model, cursor, mut opened } => {
                cursor.finish(&model.source)?;
                opened.engine().finish().await?;
                Ok(opened)
            }
            Stage::Memory { model, cursor } => {
                cursor.finish(&model.source)?;
                Opened::with(&model, &self.options, notify).await
            }
        }
    }

    /// Reads the head, if enough of it is here, and makes ready for the rest.
    async fn begin(&mut self, notify: &mut dyn FnMut(Notice)) -> Result<()> {
        let Stage::Head { bytes, .. } = &mut self.stage else { return Ok(()) };
        let Some(source) = ModelSource::from_head(&self.name, bytes, self.size, &self.side)? else { return Ok(()) };
        let head = std::mem::take(bytes);
        let model = Box::new(Model::new(source)?);
        let cursor = Cursor::new(&model.source);
        let picked = pick(&self.options.device).await?;
        picked.notice.into_iter().for_each(|n| notify(Notice::Say(n)));
        // Whatever is opened from here on is on what was picked.
        self.stage = match picked.gpu {
            Some(gpu) if !self.options.layout.is_single() => {
                self.options.device = DeviceChoice::Open(gpu);
                Stage::Memory { model, cursor }
            }
            Some(gpu) => {
                self.options.device = DeviceChoice::Open(gpu);
                let opened = Opened::with(&model, &self.options, notify).await?;
                Stage::Device { model, cursor, opened }
            }
            None => {
                self.options.device = DeviceChoice::Cpu;
                Stage::Memory { model, cursor }
            }
        };
        Box::pin(self.push(&head, notify)).await
    }
}
