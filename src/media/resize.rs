//! Resizing as Pillow does it, bit by bit: a window of weights in fixed point for each pixel, widened where a picture
//! shrinks, along rows and then along columns, rounded to bytes between. (Pillow 13 takes columns first where that is
//! less work, so that some bytes differ by one.)

use super::Picture;
use crate::base::{Error, Result};
use std::collections::VecDeque;
use std::f64::consts::PI;

/// The most bytes of rows that are kept between both passes.
const MOST_KEPT: usize = 64 << 20;
/// Bits of a weight below one.
const BITS: u32 = 22;

/// How a pixel is made of those around it, by the numbers that Pillow has for `resample`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// 0: one pixel.
    Nearest,
    /// 1: three lobes of a sinc.
    Lanczos,
    /// 2: a triangle.
    Bilinear,
    /// 3: Catmull and Rom's cubic.
    Bicubic,
    /// 4: the mean.
    Box,
    /// 5: a sinc under Hamming's window.
    Hamming,
}

impl Filter {
    /// By Pillow's number.
    pub fn of(number: u64) -> Option<Filter> {
        use Filter::*;
        [Nearest, Lanczos, Bilinear, Bicubic, Box, Hamming].get(usize::try_from(number).ok()?).copied()
    }

    /// Pixels on either side that count, where nothing shrinks.
    fn support(self) -> f64 {
        match self {
            Filter::Nearest | Filter::Box => 0.5,
            Filter::Bilinear | Filter::Hamming => 1.0,
            Filter::Bicubic => 2.0,
            Filter::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
        let a = x.abs();
        match self {
            Filter::Nearest | Filter::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Filter::Bilinear => (1.0 - a).max(0.0),
            Filter::Hamming if a >= 1.0 => 0.0,
            Filter::Hamming => sinc(x) * (0.54 + 0.46 * (x * PI).cos()),
            Filter::Bicubic if a < 1.0 => (1.5 * a - 2.5) * a * a + 1.0,
            Filter::Bicubic if a < 2.0 => ((-0.5 * a + 2.5) * a - 4.0) * a + 2.0,
            Filter::Bicubic => 0.0,
            Filter::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Filter::Lanczos => 0.0,
        }
    }
}

/// Weights of the pixels from `first` on.
struct Run {
    first: usize,
    weights: Vec<i32>,
}

/// For each of `to` pixels which of `from` make it.
fn runs(from: usize, to: usize, filter: Filter) -> Vec<Run> {
    let scale = from as f64 / to as f64;
    if filter == Filter::Nearest {
        let one = |i: usize| ((i as f64 + 0.5) * scale) as usize;
        return (0..to).map(|i| Run { first: one(i).min(from - 1), weights: vec![1 << BITS] }).collect();
    }
    let wide = scale.max(1.0);
    let support = filter.support() * wide;
    let run = |i: usize| {
        let center = (i as f64 + 0.5) * scale;
        // Numbers below zero become zero.
        let first = (center - support + 0.5) as usize;
        let end = ((center + support + 0.5) as usize).min(from);
        let weight = |j: usize| filter.weight((j as f64 - center + 0.5) / wide);
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |w: f64| {
            let w = if sum == 0.0 { w } else { w / sum } * f64::from(1 << BITS);
            (w + 0.5f64.copysign(w)) as i32
        };
        Run { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(run).collect()
}

fn byte(sum: i64) -> u8 {
    ((sum + (1 << (BITS - 1))) >> BITS).clamp(0, 255) as u8
}

/// A picture of `width` × `height` pixels.
///
/// # Errors
/// A shape whose passes would keep more than 64 MiB of rows.
pub fn resize(picture: &Picture, [height, width]: [usize; 2], filter: Filter) -> Result<Picture> {
    if [picture.height, picture.width] == [height, width] {
        return Ok(picture.clone());
    }
    let (across, down) = (runs(picture.width, width, filter), runs(picture.height, height, filter));
    let tallest = down.iter().map(|r| r.weights.len()).max().unwrap_or(0);
    if tallest.saturating_mul(width * 3) > MOST_KEPT {
        return Err(Error::usage(format!(
            "an image of {} × {} pixels cannot be resized to {width} × {height}: its shape is too far from that",
            picture.width, picture.height
        )));
    }
    let row = |y: usize| -> Vec<u8> {
        let from = &picture.rgb[y * picture.width * 3..(y + 1) * picture.width * 3];
        if picture.width == width {
            return from.to_vec();
        }
        let mut out = Vec::with_capacity(width * 3);
        for run in &across {
            let mut sums = [0i64; 3];
            for (pixel, w) in from[run.first * 3..].chunks_exact(3).zip(&run.weights) {
                (0..3).for_each(|c| sums[c] += i64::from(pixel[c]) * i64::from(*w));
            }
            out.extend(sums.map(byte));
        }
        out
    };
    // Rows between the passes, of which the first is row `begin`.
    let (mut kept, mut begin) = (VecDeque::<Vec<u8>>::new(), 0);
    let mut rgb = Vec::with_capacity(width * height * 3);
    let mut sums = vec![0i64; width * 3];
    for run in &down {
        while begin < run.first {
            kept.pop_front();
            begin += 1;
        }
        while begin + kept.len() < run.first + run.weights.len() {
            kept.push_back(row(begin + kept.len()));
        }
        if picture.height == height {
            rgb.extend_from_slice(&kept[run.first - begin]);
            continue;
        }
        sums.fill(0);
        for (row, w) in kept.range(run.first - begin..).zip(&run.weights) {
            sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += i64::from(*x) * i64::from(*w));
        }
        rgb.extend(sums.iter().map(|s| byte(*s)));
    }
    Ok(Picture { width, height, rgb })
}
