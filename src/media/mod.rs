//! Images and sound: files that nobody has read become the numbers that models take. Formats are decoded by kept crates,
//! within bounds of size; what is done to a picture is what its model's preprocessor_config.json says.

mod image;
mod mel;
mod preprocess;
mod resize;
mod sound;

pub use image::{Picture, decode};
pub use mel::LogMel;
pub use preprocess::{Family, Pixels, Preprocess};
pub use resize::{Filter, resize};
pub use sound::{Sound, decode_wav};

use crate::base::{Error, Result};
use std::path::Path;

/// The most bytes of an image or sound file.
pub const MOST_BYTES: u64 = 1 << 30;

/// A file, whole.
///
/// # Errors
/// What is no regular file, or larger than [`MOST_BYTES`].
pub fn read_file(path: &Path) -> Result<Vec<u8>> {
    let fail = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"));
    let meta = std::fs::metadata(path).map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::file(path, "is no regular file"));
    }
    if meta.len() > MOST_BYTES {
        return Err(Error::file(path, format!("has {} bytes: files of up to {MOST_BYTES} are read", meta.len())));
    }
    std::fs::read(path).map_err(fail)
}
