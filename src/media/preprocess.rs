//! What is done to a picture before a model sees it: preprocessor_config.json, read key by key.

use super::{Filter, Picture, resize};
use crate::base::{Error, Result};
use serde_json::Value as Json;
use std::path::Path;

/// The longest side of what is made; no vision tower takes more.
const MOST_SIDE: f64 = 8192.0;
/// The most pixels of a picture between resizing and cropping.
const MOST_PIXELS: usize = 16 << 20;

/// What a family's own image processor does where the file does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// The shortest side becomes 224 pixels, then the middle is cut out.
    Clip,
    /// The whole becomes a square of 224 pixels.
    Siglip,
}

/// The sides that a picture gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Of the shorter side; the other in proportion.
    Shortest(usize),
    /// Height and width.
    Exact([usize; 2]),
}

/// Steps in their order; each may be left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Preprocess {
    resize: Option<(Size, Filter)>,
    /// Height and width of the middle that is cut out; zeros around a smaller picture.
    crop: Option<[usize; 2]>,
    /// What bytes are multiplied by.
    rescale: Option<f64>,
    /// Means and deviations of red, green and blue.
    normalise: Option<[[f64; 3]; 2]>,
}

/// What a model takes: f32 `[3, height, width]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Pixels of a row.
    pub width: usize,
    /// All red, then all green, then all blue.
    pub values: Vec<f32>,
}

/// Keys that say nothing of the numbers that come out: pictures have three channels here in any case.
const HARMLESS: &[&str] = &[
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "do_convert_rgb",
    "data_format",
    "input_data_format",
    "return_tensors",
    "device",
    "disable_grouping",
    "_valid_processor_keys",
    "auto_map",
];
const READ: &[&str] = &[
    "do_resize",
    "size",
    "default_to_square",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
];

/// Reads one file.
struct Reader<'a> {
    json: &'a Json,
    path: &'a Path,
}

impl Reader<'_> {
    fn get(&self, key: &str) -> Option<&Json> {
        self.json.get(key).filter(|v| !v.is_null())
    }
    fn wrong(&self, key: &str, must: &str) -> Error {
        let value = self.get(key).map(Json::to_string).unwrap_or_default();
        Error::file(self.path, format!("{key} is {}, it must be {must}", value.chars().take(60).collect::<String>()))
    }
    fn flag(&self, key: &str, default: bool) -> Result<bool> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }
    fn side(&self, key: &str, value: &Json) -> Result<usize> {
        let n = value.as_f64().filter(|n| (1.0..=MOST_SIDE).contains(n) && n.fract() == 0.0);
        n.map(|n| n as usize).ok_or_else(|| self.wrong(key, "made of whole numbers from 1 to 8192"))
    }
    /// Height and width, or the shorter side; `square` is what one number is.
    fn size(&self, key: &str, default: Size, square: bool) -> Result<Size> {
        let Some(value) = self.get(key) else { return Ok(default) };
        if value.is_number() {
            let n = self.side(key, value)?;
            return Ok(if square { Size::Exact([n, n]) } else { Size::Shortest(n) });
        }
        let must = "a number, {\"height\", \"width\"} or {\"shortest_edge\"}";
        let Some(map) = value.as_object() else { return Err(self.wrong(key, must)) };
        let sides: Vec<(&str, &Json)> = map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (&**k, v)).collect();
        match sides[..] {
            [("shortest_edge", n)] => Ok(Size::Shortest(self.side(key, n)?)),
            [("height", h), ("width", w)] | [("width", w), ("height", h)] => {
                Ok(Size::Exact([self.side(key, h)?, self.side(key, w)?]))
            }
            _ => Err(self.wrong(key, must)),
        }
    }
    fn three(&self, key: &str, default: [f64; 3]) -> Result<[f64; 3]> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let all: Option<Vec<f64>> = match value {
            Json::Array(a) => a.iter().map(Json::as_f64).collect(),
            one => one.as_f64().map(|x| vec![x; 3]),
        };
        let all = all.filter(|a| a.len() == 3 && a.iter().all(|x| x.is_finite()));
        all.and_then(|a| a.try_into().ok()).ok_or_else(|| self.wrong(key, "three numbers"))
    }
}

impl Preprocess {
    /// From a preprocessor_config.json, or the part of a processor_config.json that is one; the family's own where there
    /// is nothing.
    ///
    /// # Errors
    /// A key that is not known, or has a value that cannot be obeyed, by name.
    pub fn read(json: &Json, family: Family, path: &Path) -> Result<Preprocess> {
        let at = Reader { json, path };
        let clip = family == Family::Clip;
        for (key, value) in json.as_object().into_iter().flatten() {
            let known = READ.contains(&key.as_str()) || HARMLESS.contains(&key.as_str());
            let nothing = value.is_null() || *value == Json::Bool(false);
            if !known && !nothing {
                return Err(Error::file(
                    path,
                    format!("has {key} = {value}, which this version does not compute with"),
                ));
            }
        }
        let resize = match at.flag("do_resize", true)? {
            false => None,
            true => {
                let default = if clip { Size::Shortest(224) } else { Size::Exact([224; 2]) };
                let filter = match at.get("resample") {
                    None => Filter::Bicubic,
                    Some(n) => {
                        n.as_u64().and_then(Filter::of).ok_or_else(|| at.wrong("resample", "a number from 0 to 5"))?
                    }
                };
                Some((at.size("size", default, at.flag("default_to_square", false)?)?, filter))
            }
        };
        let crop = match at.flag("do_center_crop", clip)? {
            false => None,
            true => match at.size("crop_size", Size::Exact([224; 2]), true)? {
                Size::Exact(sides) if clip || at.get("crop_size").is_some() => Some(sides),
                _ => return Err(at.wrong("crop_size", "a number or {\"height\", \"width\"}")),
            },
        };
        let rescale = match at.flag("do_rescale", true)? {
            false => None,
            true => match at.get("rescale_factor") {
                None => Some(1.0 / 255.0),
                Some(x) => Some(
                    x.as_f64()
                        .filter(|x| (x.abs() as f32).is_normal())
                        .ok_or_else(|| at.wrong("rescale_factor", "a number"))?,
                ),
            },
        };
        let normalise = match at.flag("do_normalize", true)? {
            false => None,
            true => {
                let own = match family {
                    Family::Clip => [[0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]],
                    Family::Siglip => [[0.5; 3]; 2],
                };
                let (mean, std) = (at.three("image_mean", own[0])?, at.three("image_std", own[1])?);
                if std.iter().any(|s| !(s.abs() as f32).is_normal()) {
                    return Err(at.wrong("image_std", "three numbers other than 0"));
                }
                Some([mean, std])
            }
        };
        Ok(Preprocess { resize, crop, rescale, normalise })
    }

    /// Height and width of what [`Preprocess::apply`] makes of a picture.
    pub fn sides(&self, picture: &Picture) -> [usize; 2] {
        let resized = self.resize.map_or([picture.height, picture.width], |(size, _)| size.of(picture));
        self.crop.unwrap_or(resized)
    }

    /// What the model takes of a picture.
    ///
    /// # Errors
    /// A picture whose shape would make it too large on the way.
    pub fn apply(&self, picture: &Picture) -> Result<Pixels> {
        let resized;
        let picture = match self.resize {
            None => picture,
            Some((size, filter)) => {
                let [h, w] = size.of(picture);
                if h.saturating_mul(w) > MOST_PIXELS {
                    return Err(Error::usage(format!(
                        "an image of {} × {} pixels would be resized to {w} × {h}: up to {MOST_PIXELS} pixels are made; crop it first",
                        picture.width, picture.height
                    )));
                }
                resized = resize(picture, [h, w], filter)?;
                &resized
            }
        };
        let [height, width] = self.crop.unwrap_or([picture.height, picture.width]);
        // Of a smaller picture more lies before than after, where both cannot be alike.
        let start = |have: usize, want: usize| (have as i64 - want as i64).div_euclid(2);
        let (top, left) = (start(picture.height, height), start(picture.width, width));
        let mut values = Vec::with_capacity(height * width * 3);
        for c in 0..3 {
            let [mean, std] = self.normalise.map_or([0.0, 1.0], |[mean, std]| [mean[c], std[c]].map(|x| x as f32));
            let value = |byte: u8| {
                let x = self.rescale.map_or(f32::from(byte), |scale| (f64::from(byte) * scale) as f32);
                if self.normalise.is_some() { (x - mean) / std } else { x }
            };
            let table: Vec<f32> = (0..=255).map(value).collect();
            for y in top..top + height as i64 {
                for x in left..left + width as i64 {
                    let inside = (0..picture.height as i64).contains(&y) && (0..picture.width as i64).contains(&x);
                    let at = if inside { (y as usize * picture.width + x as usize) * 3 + c } else { 0 };
                    values.push(table[if inside { picture.rgb[at] } else { 0 } as usize]);
                }
            }
        }
        Ok(Pixels { height, width, values })
    }
}

impl Size {
    fn of(self, picture: &Picture) -> [usize; 2] {
        match self {
            Size::Exact(sides) => sides,
            Size::Shortest(n) => {
                let (short, long) = (picture.width.min(picture.height), picture.width.max(picture.height));
                let other = (n * long) / short.max(1);
                if picture.width <= picture.height { [other, n] } else { [n, other] }
            }
        }
    }
}
