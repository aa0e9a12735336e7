//! Log-mel spectrograms as Whisper takes them (Radford et al., 2022): power of short windows, in triangles on Slaney's scale.

use crate::base::{Error, Result};
use realfft::RealFftPlanner;
use serde_json::Value as Json;
use std::f64::consts::PI;
use std::path::Path;

/// How windows go over samples, and into how many bands their power falls.
#[derive(Debug, Clone, PartialEq)]
pub struct LogMel {
    /// Samples per second.
    pub rate: u32,
    /// Samples of a window.
    window: usize,
    /// Samples from one window to the next.
    pub hop: usize,
    /// Bands.
    pub bands: usize,
    /// Seconds that a model hears at once.
    pub seconds: usize,
}

/// Keys of a feature extractor that follow from others, or change nothing here.
const HARMLESS: &[&str] = &[
    "feature_extractor_type",
    "processor_class",
    "n_samples",
    "nb_max_frames",
    "mel_filters",
    "padding_side",
    "return_attention_mask",
    "chunk_length",
    "feature_size",
    "hop_length",
    "n_fft",
    "sampling_rate",
    "padding_value",
    "dither",
];

impl LogMel {
    /// From a preprocessor_config.json; Whisper's own where it says nothing.
    ///
    /// # Errors
    /// A key that is not known, or has a value that cannot be obeyed, by name.
    pub fn read(json: &Json, path: &Path) -> Result<LogMel> {
        let wrong = |key: &str, value: &Json| {
            let value: String = value.to_string().chars().take(60).collect();
            Error::file(path, format!("has {key} = {value}, which this version does not compute with"))
        };
        for (key, value) in json.as_object().into_iter().flatten() {
            let nothing = value.is_null() || *value == Json::Bool(false) || value.as_f64() == Some(0.0);
            let zero = ["padding_value", "dither"].contains(&&**key);
            if !nothing && (zero || !HARMLESS.contains(&&**key)) {
                return Err(wrong(key, value));
            }
        }
        let size = |key: &str, default: usize, most: u64| match json.get(key).filter(|v| !v.is_null()) {
            None => Ok(default),
            Some(v) => v.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize).ok_or_else(|| wrong(key, v)),
        };
        let rate = size("sampling_rate", 16_000, 192_000)? as u32;
        let mel = LogMel {
            rate,
            window: size("n_fft", 400, 1 << 16)?,
            hop: size("hop_length", 160, 1 << 16)?,
            bands: size("feature_size", 80, 1024)?,
            seconds: size("chunk_length", 30, 120)?,
        };
        if mel.window < 4 || mel.window % 2 == 1 {
            return Err(wrong("n_fft", &json["n_fft"]));
        }
        Ok(mel)
    }

    /// Samples that a model hears at once.
    pub fn samples(&self) -> usize {
        self.seconds * self.rate as usize
    }
    /// Windows of them.
    pub fn frames(&self) -> usize {
        self.samples() / self.hop
    }

    /// `[bands, samples / hop]` of a sound at this rate, which is longer than half a window.
    ///
    /// # Errors
    /// A sound that is too short.
    pub fn of(&self, samples: &[f32]) -> Result<Vec<f32>> {
        let (n, half) = (self.window, self.window / 2);
        if samples.len() <= half {
            return Err(Error::usage(format!(
                "a sound of {} samples is too short: it takes more than {half}",
                samples.len()
            )));
        }
        let frames = samples.len() / self.hop;
        let hann: Vec<f64> = (0..n).map(|i| 0.5 - 0.5 * (2.0 * PI * i as f64 / n as f64).cos()).collect();
        let filters = self.filters();
        let fft = RealFftPlanner::<f64>::new().plan_fft_forward(n);
        let (mut input, mut spectrum) = (fft.make_input_vec(), fft.make_output_vec());
        let mut out = vec![0.0f32; self.bands * frames];
        let (last, mut most) = (samples.len() as i64 - 1, f32::NEG_INFINITY);
        for frame in 0..frames {
            for (i, x) in input.iter_mut().enumerate() {
                // Beyond its ends a sound is its own mirror image.
                let at = (frame * self.hop + i) as i64 - half as i64;
                let at = if at < 0 {
                    -at
                } else if at > last {
                    2 * last - at
                } else {
                    at
                };
                *x = f64::from(samples[at.clamp(0, last) as usize]) * hann[i];
            }
            fft.process(&mut input, &mut spectrum)
                .map_err(|e| Error::usage(format!("a window of {n} samples: {e}")))?;
            for (band, (first, weights)) in filters.iter().enumerate() {
                let power: f64 = spectrum[*first..].iter().zip(weights).map(|(z, w)| z.norm_sqr() * w).sum();
                let x = power.max(1e-10).log10() as f32;
                most = most.max(x);
                out[band * frames + frame] = x;
            }
        }
        out.iter_mut().for_each(|x| *x = (x.max(most - 8.0) + 4.0) / 4.0);
        Ok(out)
    }

    /// For each band the first frequency that counts, and weights from it on.
    fn filters(&self) -> Vec<(usize, Vec<f64>)> {
        let (step, high) = (6.4f64.ln() / 27.0, 8000.0f64);
        let to_hertz = |mel: f64| if mel >= 15.0 { 1000.0 * (step * (mel - 15.0)).exp() } else { 200.0 * mel / 3.0 };
        let top = 15.0 + (high / 1000.0).ln() / step;
        let edges: Vec<f64> = (0..self.bands + 2).map(|i| to_hertz(top * i as f64 / (self.bands + 1) as f64)).collect();
        let count = self.window / 2 + 1;
        let hertz = |i: usize| f64::from(self.rate / 2) * i as f64 / (count - 1) as f64;
        let band = |b: usize| {
            let (low, mid, end) = (edges[b], edges[b + 1], edges[b + 2]);
            let weight = |i: usize| {
                let rise = (hertz(i) - low) / (mid - low);
                let fall = (end - hertz(i)) / (end - mid);
                rise.min(fall).max(0.0) * 2.0 / (end - low)
            };
            let first = (0..count).find(|i| weight(*i) > 0.0).unwrap_or(0);
            let past = (first..count).rev().find(|i| weight(*i) > 0.0).map_or(first, |i| i + 1);
            (first, (first..past).map(weight).collect())
        };
        (0..self.bands).map(band).collect()
    }
}
