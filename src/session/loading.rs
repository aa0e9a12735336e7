//! A model that opens while its file arrives.

use super::{DeviceChoice, Embedder, Generator, Notice, Options, pick};
use crate::base::{Error, Result};
use crate::model::source::{Cursor, Head};
use crate::model::{Model, ModelSource};
use std::collections::HashMap;

/// Bytes of a head that are waited for before it is first read; then for twice as many, and so on.
const FIRST: usize = 64 << 10;

/// Takes the bytes of a model's file in order. They go to the engine as they come: beside it the host holds the file's head,
/// then the piece at hand. For a mesh of ranks on the CPU, and where weights are made of
/// tensors of another form, all are kept.
///
/// ```no_run
/// use std::collections::HashMap;
/// use warpweft::{Loading, Opened, Options};
///
/// # async fn arrive(pieces: Vec<Vec<u8>>) -> warpweft::Result<()> {
/// let mut loading = Loading::new("model.gguf", None, HashMap::new(), Options::new());
/// for piece in pieces {
///     loading.push(&piece).await?;
/// }
/// if let Opened::Generator(model) = loading.finish().await? {
///     println!("{}", model.info().name);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Loading {
    name: String,
    size: Option<u64>,
    side: HashMap<String, Vec<u8>>,
    options: Options,
    stage: Stage,
}

enum Stage {
    Head { bytes: Vec<u8>, enough: usize },
    Engine { model: Box<Model>, cursor: Cursor, opened: Opened },
    Memory { model: Box<Model>, cursor: Cursor },
}

/// What a file turned out to be.
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum Opened {
    /// It generates text.
    Generator(Box<Generator>),
    /// It makes embeddings.
    Embedder(Box<Embedder>),
}

impl Opened {
    async fn with(model: &Model, options: &Options, notify: &mut dyn FnMut(Notice)) -> Result<Opened> {
        Ok(match model.sentence() {
            None => Opened::Generator(Box::new(Generator::with(model, options, notify).await?)),
            Some(_) => Opened::Embedder(Box::new(Embedder::with(model, options, notify).await?)),
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

    /// A model in several files, from their heads: their bytes are pushed whole, one file after another, in this order, with
    /// [`Loading::file_ends`] after each.
    ///
    /// # Errors
    /// Heads that do not fit each other or their index; a model that cannot be run, a device that is too small.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub async fn of_files(
        name: &str,
        heads: &[Head],
        side: HashMap<String, Vec<u8>>,
        options: Options,
    ) -> Result<Loading> {
        let notices = options.notices.clone();
        Loading::of_files_telling(name, heads, side, options, &mut |n| notices.tell(n)).await
    }

    pub(crate) async fn of_files_telling(
        name: &str,
        heads: &[Head],
        side: HashMap<String, Vec<u8>>,
        options: Options,
        notify: &mut dyn FnMut(Notice),
    ) -> Result<Loading> {
        let source = ModelSource::from_heads(name, heads, &side)?;
        let mut loading = Loading::new(name, None, side, options);
        loading.engage(source, notify).await?;
        Ok(loading)
    }

    /// Tells that the last byte of one of several files was pushed.
    ///
    /// # Errors
    /// Where it is another length than its head says.
    pub fn file_ends(&self, name: &str) -> Result<()> {
        match &self.stage {
            Stage::Head { .. } => Ok(()),
            Stage::Engine { model, cursor, .. } | Stage::Memory { model, cursor } => {
                cursor.file_ends(&model.source, name)
            }
        }
    }

    /// Takes the file's next bytes.
    ///
    /// # Errors
    /// A file that is damaged or cannot be run, a device that is too small: as early as the bytes tell.
    pub async fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let notices = self.options.notices.clone();
        self.push_telling(bytes, &mut |n| notices.tell(n)).await
    }

    pub(crate) async fn push_telling(&mut self, bytes: &[u8], notify: &mut dyn FnMut(Notice)) -> Result<()> {
        match &mut self.stage {
            Stage::Head { bytes: head, enough } => {
                head.extend_from_slice(bytes);
                if head.len() < *enough && self.size.is_none_or(|n| (head.len() as u64) < n) {
                    return Ok(());
                }
                *enough = head.len() * 2;
                self.begin(notify).await
            }
            Stage::Engine { model, cursor, opened } => {
                for piece in cursor.push(&model.source, bytes) {
                    let t = &model.source.tensors()[piece.tensor];
                    opened.engine().feed(&t.name, piece.block, &piece.bytes).await?;
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
    pub async fn finish(self) -> Result<Opened> {
        let notices = self.options.notices.clone();
        self.finish_telling(&mut |n| notices.tell(n)).await
    }

    pub(crate) async fn finish_telling(mut self, notify: &mut dyn FnMut(Notice)) -> Result<Opened> {
        if let Stage::Head { bytes, .. } = &self.stage {
            self.size.get_or_insert(bytes.len() as u64);
            self.begin(notify).await?;
        }
        match self.stage {
            Stage::Head { bytes, .. } => Err(Error::file(
                &self.name,
                format!("ends at byte {} inside of its head: download it again", bytes.len()),
            )),
            Stage::Engine { model, cursor, mut opened } => {
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
        self.engage(source, notify).await?;
        Box::pin(self.push_telling(&head, notify)).await
    }

    /// Makes ready for a source's bytes.
    async fn engage(&mut self, source: ModelSource, notify: &mut dyn FnMut(Notice)) -> Result<()> {
        let model = Box::new(Model::new(source)?);
        let cursor = Cursor::new(&model.source);
        let picked = pick(&self.options.device).await?;
        picked.notice.into_iter().for_each(|n| notify(Notice::Say(n)));
        // Whatever is opened from here on is on what was picked.
        self.options.device = match picked.gpu {
            Some(gpu) => DeviceChoice::Open(gpu),
            None => DeviceChoice::Cpu,
        };
        let on_cpu = matches!(self.options.device, DeviceChoice::Cpu);
        let whole = model.derives() || on_cpu && !self.options.layout.is_single();
        self.stage = match !whole {
            true => {
                if let (true, Some(gather)) = (on_cpu, self.options.gather) {
                    self.options.team = gather().await;
                }
                let opened = Opened::with(&model, &self.options, notify).await?;
                Stage::Engine { model, cursor, opened }
            }
            false => Stage::Memory { model, cursor },
        };
        Ok(())
    }
}
