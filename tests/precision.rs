//! Products in f16 and int8 on the device: every variant within the bound of its precision against sums in f64, each kernel broken
//! on purpose, numbers that are not finite, and what is refused.

mod common;

use common::{Found, device};
use std::collections::HashMap;
use std::sync::Arc;
use warpweft::base::{Array, Bindings, Caps, DType, Precision};
use warpweft::device::{Gpu, Program, Store};
use warpweft::format::{decode, encode};
use warpweft::graph::{Graph, GraphBuilder};
use warpweft::kernel::matmul::{Form, VARIANTS, Variant};
use warpweft::kernel::{Kernel, Template};
use warpweft::plan::{Options, Plan, plan};
use warpweft::session::{Engine, Options as SessionOptions};

/// A product with a bias: x `[m, k]` times rows of weights, and what comes out in f64.
struct Case {
    graph: Graph,
    weights: HashMap<String, Array>,
    x: Array,
    want: Vec<f64>,
    /// Of each output, Σ |w · x|, and Σ |w| · the largest |x| of its block of 32.
    size: Vec<f64>,
    rounding: Vec<f64>,
    /// What comes out where x is rounded to bytes by blocks of 32 as int8 says.
    meant: Vec<f64>,
}

/// A block of 32 as whole multiples of 1/127 of its largest.
fn rounded(block: &[f32]) -> Vec<f64> {
    let most = block.iter().fold(0.0f32, |most, x| x.abs().max(most));
    let by = 127.0 / most;
    block.iter().map(|x| (x * by).round_ties_even() as f64 * (most / 127.0) as f64).collect()
}

fn case(dtype: DType, (m, n, k): (usize, usize, usize)) -> Case {
    let mut seed = 77u32;
    let mut number = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let x: Vec<f32> = (0..m * k).map(|_| number() * 3.0).collect();
    let bytes = encode(dtype, &(0..n * k).map(|_| number() * 0.2).collect::<Vec<f32>>());
    let w = decode(dtype, &bytes);
    let bias: Vec<f32> = (0..n).map(|_| number()).collect();
    let g = GraphBuilder::new();
    let y = g.input("x", DType::F32, [m, k]).matmul_t(g.weight("w", dtype, [n, k]));
    g.output("y", y + g.data("bias", [n], bias.clone()));
    let (mut want, mut size, mut rounding, mut meant) = (vec![], vec![], vec![], vec![]);
    for row in x.chunks_exact(k) {
        let bytes: Vec<f64> = row.chunks(32).flat_map(rounded).collect();
        let most: Vec<f64> = row.chunks(32).map(|b| b.iter().fold(0.0, |most, x| x.abs().max(most)) as f64).collect();
        for (w, bias) in w.chunks_exact(k).zip(&bias) {
            let terms = || row.iter().zip(w).map(|(x, w)| *x as f64 * *w as f64);
            meant.push(bytes.iter().zip(w).map(|(x, w)| x * *w as f64).sum::<f64>() + *bias as f64);
            want.push(terms().sum::<f64>() + *bias as f64);
            size.push(terms().map(f64::abs).sum::<f64>() + bias.abs() as f64);
            rounding.push(w.iter().enumerate().map(|(i, w)| w.abs() as f64 * most[i / 32]).sum());
        }
    }
    let weights = HashMap::from([("w".to_string(), Array { dtype, shape: vec![n, k], bytes })]);
    Case { graph: g.finish().unwrap(), weights, x: Array::f32(&[m, k], &x), want, size, rounding, meant }
}

impl Case {
    fn run(&self, gpu: &Arc<Gpu>, v: &Variant, change: &mut dyn FnMut(&mut Plan)) -> warpweft::base::Result<Vec<f32>> {
        let mut options = Options::for_caps(gpu.caps());
        options.precision = v.precision;
        options.tuning.prefer(v.name);
        let mut made = plan(&self.graph, gpu.caps(), &options)?;
        change(&mut made);
        pollster::block_on(async {
            let mut store = Store::new(gpu.clone());
            let mut program = Program::load(made, &mut store, &self.weights, &mut |_, _| {}).await?;
            program.poison();
            Ok(program.step(&Bindings::new(), &[("x", self.x.clone())], &["y"]).await?.remove(0).to_f32())
        })
    }

    /// The first output that is off by more than this precision may be.
    fn wrong(&self, precision: Precision, got: &[f32]) -> Option<String> {
        let within = |i: usize| match precision {
            Precision::F32 => 4e-6 * self.size[i],
            // Both operands are rounded, each by 2^-11 of itself at most.
            Precision::F16 => 1.1 * self.size[i] / 1024.0,
            // Each number by half a step of its block, which is 1/127 of the block's largest.
            Precision::Int8 => 4e-6 * self.size[i] + 1.001 * self.rounding[i] / 254.0,
        };
        assert_eq!(got.len(), self.want.len());
        let off = |i: &usize| (got[*i] as f64 - self.want[*i]).abs();
        let first = (0..got.len()).find(|i| off(i) > within(*i) || off(i).is_nan())?;
        Some(format!("element {first} is {}, {} is right, within {}", got[first], self.want[first], within(first)))
    }
}

fn kernel_of(v: &Variant) -> &'static str {
    match (v.form, v.precision) {
        (Form::Tiled, Precision::F16) => "matmul_f16",
        (Form::Tiled, _) => "matmul_int8",
        (Form::Subgroup, _) => "matvec_subgroup_int8",
        _ => "matvec_int8",
    }
}

/// Formats whose factors are of 32 elements and of 16, with offsets and without, stand for all where texts are long.
fn formats(v: &Variant) -> Vec<DType> {
    match (v.precision, v.tm * v.tn) {
        (_, 33..) => vec![DType::Q8_0],
        (Precision::F16, _) => vec![DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_K, DType::Q6_K],
        (_, 9..) => vec![DType::Q8_0, DType::Q4_1, DType::Q6_K, DType::Q2_K],
        _ => DType::quantised().collect(),
    }
}

/// Rows and columns that fill tiles and that do not, one run and many.
fn shapes(v: &Variant) -> &'static [(usize, usize, usize)] {
    match v.form {
        Form::Tiled => &[(40, 70, 512)],
        _ => &[(1, 37, 512), (3, 37, 256)],
    }
}

#[test]
fn every_variant_below_f32_stays_within_its_bound_with_every_format() {
    let Found::Device(gpu) = device(None) else { return };
    let mut held = 0;
    for v in VARIANTS.iter().filter(|v| v.precision != Precision::F32 && v.requires(gpu.caps())) {
        for dtype in formats(v) {
            for shape in shapes(v) {
                let case = case(dtype, *shape);
                let mut planned = false;
                let got = case.run(&gpu, v, &mut |p| planned = p.kernels.iter().any(|k| k.name() == kernel_of(v)));
                let what = format!("{} {dtype} {shape:?}", v.name);
                let got = got.unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(planned, "{what} was not planned");
                if let Some(wrong) = case.wrong(v.precision, &got) {
                    panic!("{what}: {wrong}");
                }
                // It was rounded: in f32 it would be a thousand times as near.
                let near = (0..got.len()).all(|i| (got[i] as f64 - case.want[i]).abs() <= 2e-6 * case.size[i]);
                assert!(!near || v.precision == Precision::F16, "{what} was not rounded");
                held += 1;
            }
        }
    }
    assert!(held > 40, "only {held} products were held");
}

/// Variant, what is replaced, by what.
const BREAKS: &[(&str, &str, &str, &str)] = &[
    ("int8-32x32-4x2", "quantise", "127.0 / most", "126.0 / most"),
    ("int8-32x32-4x2", "quantise", "most / 127.0", "most / 128.5"),
    ("int8-32x32-4x2", "quantise", "q2.bytes, q3.bytes", "q3.bytes, q2.bytes"),
    ("int8-32x32-4x2", "quantise", "f32(q4.sum +", "f32("),
    ("int8-32x32-4x2", "quantise", "largest(x7)", "0u"),
    ("int8-32x32-4x2", "quantise", "* p.a_row", ""),
    ("int8-32x32-4x2", "matmul_int8", "+ dot4I8Packed(x.w, w.w)", ""),
    ("int8-32x32-4x2", "matmul_int8", "let next = min(run + 1u, runs - 1u);", "let next = run;"),
    ("int8-32x32-4x2", "matmul_int8", "min(m0 + to0, p.m - 1u)", "m0"),
    ("int8-32x32-4x2", "matmul_int8", "m < p.m && n < p.n", "m < p.m"),
    ("int8-32x32-4x2", "matmul_int8", "(e0.y + e0.z), f0.y", "e0.y, f0.y"),
    ("int8-32x32-4x2", "matmul_int8", "packed(r0, 2u)", "packed(r0, 3u)"),
    ("int8-vector-4", "matvec_int8", "c += ALONG", "c += ALONG + 1u"),
    ("int8-vector-4", "matvec_int8", "* e0.x, f1.x", "* e0.x, f0.x"),
    ("int8-vector-4", "matvec_int8", "(e0.y + e0.z)", "e0.z"),
    ("int8-vector-4", "matvec_int8", "step > 0u", "step > 1u"),
    ("f16-64x64-4x4", "matmul_f16", "vec4<f32>(tile_a[ia0 + 16u])", "vec4<f32>(tile_a[ia0])"),
    ("f16-64x64-4x4", "matmul_f16", "min(k0 + 16u, end - 16u)", "k0"),
];

#[test]
fn every_broken_kernel_is_seen() {
    let Found::Device(gpu) = device(None) else { return };
    let mut missed = vec![];
    for (name, kernel, from, to) in BREAKS {
        let v = Variant::find(name).unwrap();
        if !v.requires(gpu.caps()) {
            continue;
        }
        let case = case(DType::Q4_1, if v.form == Form::Tiled { (40, 70, 256) } else { (3, 37, 4096) });
        let mut changed = false;
        let got = case.run(&gpu, &v, &mut |plan: &mut Plan| {
            for k in plan.kernels.iter_mut().filter(|k| k.name() == *kernel) {
                let source = k.source().unwrap();
                if source.contains(from) {
                    let source = source.replace(from, to).leak();
                    *k = Kernel::new(Box::leak(Box::new(Template { name: k.name(), source })));
                    changed = true;
                }
            }
        });
        // A kernel that no longer compiles is seen, too.
        // The bound of int8 is for the worst case: what is meant by it is held more closely.
        let far = |got: &[f32]| (0..got.len()).any(|i| (got[i] as f64 - case.meant[i]).abs() > 5e-5 * case.size[i]);
        let off =
            |got: Vec<f32>| case.wrong(v.precision, &got).is_some() || v.precision == Precision::Int8 && far(&got);
        let seen = got.map_or(true, off);
        if !changed {
            missed.push(format!("{name}: no kernel {kernel} holds {from:?}"));
        } else if !seen {
            missed.push(format!("{name}: {kernel} with {to:?} for {from:?} went unseen"));
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

#[test]
fn a_row_with_what_is_not_finite_gives_nan_and_no_other_row_does() {
    let Found::Device(gpu) = device(None) else { return };
    let v = Variant::find("int8-vector-4").unwrap();
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = case(DType::Q8_0, (3, 37, 256));
        let mut x = case.x.to_f32();
        x[256 + 70] = bad;
        case.x = Array::f32(&[3, 256], &x);
        let got = case.run(&gpu, &v, &mut |_| {}).unwrap();
        for (row, y) in got.chunks_exact(37).enumerate() {
            assert!(y.iter().all(|y| y.is_nan() == (row == 1)), "{bad}: row {row} is {y:?}");
        }
    }
    // Zeros, and numbers that have no inverse, are zeros.
    let mut case = case(DType::Q8_0, (3, 37, 256));
    case.x = Array::f32(&[3, 256], &(0..768).map(|i| if i < 300 { 0.0 } else { 1e-40 }).collect::<Vec<f32>>());
    let got = case.run(&gpu, &v, &mut |_| {}).unwrap();
    let bias = |i: usize| got[i] - got[37 + i];
    assert!(got.iter().all(|y| y.is_finite()) && (0..37).all(|i| bias(i) == 0.0));
}

fn opened(gpu: Option<Arc<Gpu>>, precision: Precision) -> warpweft::base::Result<Vec<f32>> {
    let case = case(DType::Q4_1, (2, 37, 256));
    let options = SessionOptions { precision, ..SessionOptions::default() };
    pollster::block_on(async {
        let mut engine = Engine::load(gpu, &case.graph, &case.weights, &options).await?;
        Ok(engine.run(&Bindings::new(), &[("x", case.x.clone())], &["y"]).await?.remove(0).to_f32())
    })
}

#[test]
fn an_engine_computes_in_the_precision_that_is_asked_for_or_refuses_it_by_name() {
    let on_cpu = opened(None, Precision::Int8).unwrap();
    let refused = opened(None, Precision::F16).unwrap_err().to_string();
    assert!(refused.contains("f16") && refused.contains("--precision"), "{refused}");
    assert!("f17".parse::<Precision>().unwrap_err().to_string().contains("f32, f16 or int8"));
    let Found::Device(gpu) = device(None) else { return };
    let on_device = opened(Some(gpu.clone()), Precision::Int8).unwrap();
    let exact = opened(Some(gpu.clone()), Precision::F32).unwrap();
    // One meaning of int8: the CPU's and the device's numbers are the same but for the order of sums.
    assert!(on_cpu.iter().zip(&on_device).all(|(a, b)| (a - b).abs() < 1e-4), "{on_cpu:?} {on_device:?}");
    assert!(exact.iter().zip(&on_device).any(|(a, b)| (a - b).abs() > 1e-4));
    if gpu.caps().f16 {
        opened(Some(gpu.clone()), Precision::F16).unwrap();
    }
    let Found::Device(floor) = device(Some(&Caps::FLOOR)) else { return };
    let refused = opened(Some(floor), Precision::F16).unwrap_err().to_string();
    assert!(refused.contains("f16") && refused.contains("--precision f32"), "{refused}");
}
