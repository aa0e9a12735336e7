//! ONNX's `Resize`: along each axis a product with a matrix of weights, which depends on lengths alone.

use super::proto::{Host, kind};
use super::{Call, at};
use warpweft::{DType, Tensor};

/// Where an output element lies among the input's, by the rule of this name.
struct Rule<'a> {
    place: &'a str,
    mode: &'a str,
    nearest: &'a str,
    cubic: f64,
    exclude: bool,
    smooth: bool,
    extrapolation: f32,
}

/// Weights of the input's elements for one output element, and whether it lies outside.
fn weights(r: &Rule, i: usize, n: usize, to: usize, scale: f64, roi: (f64, f64)) -> (Vec<f64>, bool) {
    let (x, n1, to1) = (i as f64, n as f64 - 1.0, to as f64 - 1.0);
    let whole = scale * n as f64;
    let at = match r.place {
        "asymmetric" => x / scale,
        "align_corners" if to == 1 => 0.0,
        "align_corners" => x * n1 / (whole - 1.0),
        "pytorch_half_pixel" if to == 1 => -0.5,
        "half_pixel_symmetric" => {
            let adjust = to as f64 / whole;
            let centre = n as f64 / 2.0;
            centre * (1.0 - adjust) + (x + 0.5) / scale - 0.5
        }
        "tf_crop_and_resize" if to == 1 => 0.5 * (roi.0 + roi.1) * n1,
        "tf_crop_and_resize" => roi.0 * n1 + x * (roi.1 - roi.0) * n1 / to1,
        _ => (x + 0.5) / scale - 0.5,
    };
    let outside = r.place == "tf_crop_and_resize" && (at < 0.0 || at > n1);
    let mut out = vec![0.0; n];
    if r.mode == "nearest" {
        let k = match r.nearest {
            "round_prefer_ceil" => (at + 0.5).floor(),
            "floor" => at.floor(),
            "ceil" => at.ceil(),
            _ => (at - 0.5).ceil(),
        };
        out[k.clamp(0.0, n1) as usize] = 1.0;
        return (out, outside);
    }
    let stretch = if r.smooth && scale < 1.0 { scale } else { 1.0 };
    let reach = if r.mode == "linear" { 1.0 } else { 2.0 } / stretch;
    let shape = |d: f64| {
        let d = (d * stretch).abs();
        match r.mode {
            "linear" => (1.0 - d).max(0.0),
            _ if d <= 1.0 => ((r.cubic + 2.0) * d - (r.cubic + 3.0)) * d * d + 1.0,
            _ if d < 2.0 => ((r.cubic * d - 5.0 * r.cubic) * d + 8.0 * r.cubic) * d - 4.0 * r.cubic,
            _ => 0.0,
        }
    };
    let mut sum = 0.0;
    for k in (at - reach).floor() as i64..=(at + reach).ceil() as i64 {
        let w = shape(at - k as f64);
        if r.exclude && (k < 0 || k as f64 > n1) {
            continue;
        }
        sum += w;
        out[(k.max(0) as usize).min(n - 1)] += w;
    }
    if sum != 0.0 {
        out.iter_mut().for_each(|w| *w /= sum);
    }
    (out, outside)
}

pub fn resize<'g>(c: &Call<'g, '_>) -> Result<Tensor<'g>, String> {
    let mut x = c.x(0)?;
    let shape = x.shape().known().unwrap_or_default();
    let old = c.node.op == "Upsample" || c.version < 11;
    let (roi, scales, sizes) = if old { (9, 1, 9) } else { (1, 2, 3) };
    let axes: Vec<usize> = match c.node.ints("axes") {
        Some(axes) => axes.iter().map(|a| at(*a, shape.len())).collect(),
        None => (0..shape.len()).collect(),
    };
    let has = |i: usize| c.has(i) && !c.host(i).is_ok_and(|h| h.data.is_empty());
    let roi = if has(roi) { c.host(roi)?.data.clone() } else { vec![] };
    let mut factors: Vec<f64> = match (c.node.attribute("scales"), has(scales)) {
        (Some(a), _) => a.floats.iter().map(|f| *f as f64).collect(),
        (None, true) => c.host(scales)?.data.clone(),
        _ => vec![],
    };
    let given = !factors.is_empty();
    let mut targets: Vec<usize> =
        if has(sizes) { c.host(sizes)?.data.iter().map(|d| *d as usize).collect() } else { vec![] };
    if !given {
        factors = axes.iter().zip(&targets).map(|(a, to)| *to as f64 / shape[*a] as f64).collect();
        let policy = c.node.text("keep_aspect_ratio_policy", "stretch");
        if policy != "stretch" {
            let pick = if policy == "not_larger" { f64::min } else { f64::max };
            let f = factors.iter().copied().reduce(pick).unwrap_or(1.0);
            targets = axes.iter().map(|a| (f * shape[*a] as f64 + 0.5).floor() as usize).collect();
            factors = vec![f; axes.len()];
        }
    } else {
        targets = axes.iter().zip(&factors).map(|(a, f)| (f * shape[*a] as f64).floor() as usize).collect();
    }
    let rule = Rule {
        place: c.node.text("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" }),
        mode: c.node.text("mode", "nearest"),
        nearest: if old { "floor" } else { c.node.text("nearest_mode", "round_prefer_floor") },
        cubic: c.node.float("cubic_coeff_a", -0.75) as f64,
        exclude: c.node.int("exclude_outside", 0) == 1,
        smooth: c.node.int("antialias", 0) == 1,
        extrapolation: c.node.float("extrapolation_value", 0.0),
    };
    let kind = x.dtype();
    x = x.cast(DType::F32);
    let mut inside: Option<Tensor<'g>> = None;
    for (i, &axis) in axes.iter().enumerate() {
        let (n, to) = (shape[axis], targets[i]);
        let part = (roi.get(i).copied().unwrap_or(0.0), roi.get(i + axes.len()).copied().unwrap_or(1.0));
        if n == to && factors[i] == 1.0 && rule.place != "tf_crop_and_resize" {
            continue;
        }
        let lines: Vec<(Vec<f64>, bool)> = (0..to).map(|j| weights(&rule, j, n, to, factors[i], part)).collect();
        let matrix = Host::new(kind::F32, &[to, n], lines.iter().flat_map(|l| l.0.clone()).collect());
        let last = shape.len() - 1;
        let mut perm: Vec<usize> = (0..=last).collect();
        perm.swap(axis, last);
        x = x.transpose(&perm).matmul_t(c.literal(matrix)?).transpose(&perm);
        if lines.iter().any(|l| l.1) {
            let mut line = vec![1; shape.len()];
            line[axis] = to;
            let mask = Host::new(kind::BOOL, &line, lines.iter().map(|l| !l.1 as u8 as f64).collect());
            let mask = c.literal(mask)?;
            inside = Some(inside.map_or(mask, |m| m.and(mask)));
        }
    }
    if let Some(inside) = inside {
        x = inside.select(x, c.g.constant(rule.extrapolation));
    }
    Ok(if kind.is_int() { x.round().cast(kind) } else { x })
}
