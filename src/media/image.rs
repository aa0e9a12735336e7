//! JPEG, PNG and WebP to rows of red, green and blue, upright, as transformers' `load_image` gives them: turned as EXIF
//! says, transparency dropped.

use crate::base::{Error, Result};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use std::io::Cursor;
use std::path::Path;

/// The longest side of a picture.
const MOST_SIDE: u32 = 32_768;
/// Bytes that a decoded picture may take beside [`PER_BYTE`] for each of its file's: a small file is no large picture.
const ROOM: u64 = 64 << 20;
/// What photographs compress to is far less than this.
const PER_BYTE: u64 = 16;
/// The most bytes of any decoded picture.
const MOST: u64 = 512 << 20;

/// Rows from the top, three bytes a pixel: red, green, blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `height · width · 3` bytes.
    pub rgb: Vec<u8>,
}

/// A picture from a file's bytes; `path` is for messages.
///
/// # Errors
/// What is no JPEG, PNG or WebP, is damaged or cut off, or would take more memory than its file makes plausible.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Picture> {
    let damaged = |e: image::ImageError| Error::file(path, format!("is no image that can be read: {e}"));
    let mut reader = ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .map_err(|e| Error::file(path, format!("cannot be read: {e}")))?;
    match reader.format() {
        Some(ImageFormat::Jpeg) if !ends(bytes) => return Err(Error::file(path, "is a JPEG that is cut off")),
        Some(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::WebP) => {}
        _ => return Err(Error::file(path, "is no JPEG, PNG or WebP: convert it to one of these")),
    }
    let most = (bytes.len() as u64).saturating_mul(PER_BYTE).saturating_add(ROOM).min(MOST);
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MOST_SIDE), Some(MOST_SIDE));
    limits.max_alloc = Some(most);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let needed = decoder.total_bytes();
    if width == 0 || height == 0 {
        return Err(Error::file(path, format!("is an image of {width} × {height} pixels")));
    }
    if width > MOST_SIDE || height > MOST_SIDE || needed > most {
        return Err(Error::file(
            path,
            format!(
                "is an image of {width} × {height} pixels ({needed} bytes) in a file of {}: sides of up to {MOST_SIDE} \
                 and {most} bytes are decoded; make it smaller",
                bytes.len()
            ),
        ));
    }
    let turn = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(damaged)?;
    image.apply_orientation(turn);
    let (width, height) = (image.width() as usize, image.height() as usize);
    Ok(Picture { width, height, rgb: rgb(image, path)? })
}

/// Whether a JPEG's last scan is followed by the mark of its end: decoders fill what is missing with grey.
fn ends(bytes: &[u8]) -> bool {
    let last = |mark: u8| bytes.windows(2).rposition(|w| w == [0xff, mark]);
    matches!((last(0xda), last(0xd9)), (Some(scan), Some(end)) if end > scan)
}

fn rgb(image: DynamicImage, path: &Path) -> Result<Vec<u8>> {
    let high = |x: u16| (x >> 8) as u8;
    Ok(match image {
        DynamicImage::ImageRgb8(i) => i.into_raw(),
        DynamicImage::ImageRgba8(i) => i.pixels().flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(i) => i.into_raw().into_iter().flat_map(|x| [x; 3]).collect(),
        DynamicImage::ImageLumaA8(i) => i.pixels().flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageRgb16(i) => i.into_raw().into_iter().map(high).collect(),
        DynamicImage::ImageRgba16(i) => i.pixels().flat_map(|p| [high(p[0]), high(p[1]), high(p[2])]).collect(),
        DynamicImage::ImageLumaA16(i) => i.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        // What such files mean by white is not agreed on.
        _ => return Err(Error::file(path, "has 16 bits of grey: convert it to 8 bits")),
    })
}
