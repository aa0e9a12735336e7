//! WAV files to one channel of samples at a model's rate.

use crate::base::{Error, Result};
use hound::{SampleFormat, WavReader};
use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler, WindowFunction};
use std::io::Cursor;
use std::path::Path;

/// Samples per second that are taken.
const RATES: std::ops::RangeInclusive<u32> = 1_000..=384_000;
const MOST_CHANNELS: u16 = 64;
/// The longest sound.
const MOST_SECONDS: u64 = 6 * 3600;
/// Samples that are resampled together.
const CHUNK: usize = 4096;

/// One channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Sound {
    /// Samples per second.
    pub rate: u32,
    /// From −1 to 1.
    pub samples: Vec<f32>,
}

/// The sound of a WAV file's bytes: the mean of its channels. `path` is for messages.
///
/// # Errors
/// What is no WAV of whole numbers or floats, is cut off, silent of samples, or has samples that are no numbers.
pub fn decode_wav(bytes: &[u8], path: &Path) -> Result<Sound> {
    let fail = |e: hound::Error| Error::file(path, format!("is no WAV file that can be read: {e}"));
    let mut reader = WavReader::new(Cursor::new(bytes)).map_err(fail)?;
    let spec = reader.spec();
    if !RATES.contains(&spec.sample_rate) || spec.channels > MOST_CHANNELS {
        return Err(Error::file(
            path,
            format!(
                "has {} channels of {} samples per second: up to {MOST_CHANNELS} of {} to {} are read",
                spec.channels,
                spec.sample_rate,
                RATES.start(),
                RATES.end()
            ),
        ));
    }
    let seconds = u64::from(reader.duration()) / u64::from(spec.sample_rate);
    if seconds > MOST_SECONDS {
        return Err(Error::file(path, format!("lasts {seconds} s: up to {MOST_SECONDS} are read; cut it")));
    }
    let channels = usize::from(spec.channels).max(1);
    let (mut samples, mut sum, mut have) = (vec![], 0.0f32, 0usize);
    let mut take = |x: f32| {
        sum += x;
        have += 1;
        if have.is_multiple_of(channels) {
            samples.push(sum / channels as f32);
            sum = 0.0;
        }
    };
    match spec.sample_format {
        SampleFormat::Float => {
            for x in reader.samples::<f32>() {
                take(x.map_err(fail)?);
            }
        }
        SampleFormat::Int => {
            let scale = 1.0 / (1u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            for x in reader.samples::<i32>() {
                take(x.map_err(fail)? as f32 * scale);
            }
        }
    }
    if samples.is_empty() {
        return Err(Error::file(path, "has no samples"));
    }
    if let Some(at) = samples.iter().position(|x| !x.is_finite()) {
        return Err(Error::file(path, format!("has a sample {at} that is {}", samples[at])));
    }
    Ok(Sound { rate: spec.sample_rate, samples })
}

impl Sound {
    /// The same sound at another rate, band-limited.
    ///
    /// # Errors
    /// Rates that the resampler does not take.
    pub fn at_rate(self, rate: u32) -> Result<Sound> {
        if self.rate == rate {
            return Ok(self);
        }
        let from = self.rate;
        let fail = |e: String| Error::usage(format!("{from} samples per second cannot become {rate}: {e}"));
        let length = self.samples.len();
        let mut resampler = Fft::<f32>::new_custom(
            from as usize,
            rate as usize,
            CHUNK,
            1,
            1,
            WindowFunction::BlackmanHarris2,
            FixedSync::Input,
        )
        .map_err(|e| fail(e.to_string()))?;
        let input = InterleavedSlice::new(&self.samples, 1, length).map_err(|e| fail(e.to_string()))?;
        let made = resampler.process_all(&input, length, None).map_err(|e| fail(e.to_string()))?;
        Ok(Sound { rate, samples: made.take_data() })
    }
}
