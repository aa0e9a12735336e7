//! Every format against the reference implementation's figures: what blocks mean, on the host and on the device in every way that a
//! table is read, and what encoders make.

mod common;

use common::{Found, device};
use std::collections::HashMap;
use std::path::Path;
use warpweft::base::{Array, Bindings, DType};
use warpweft::device::{Program, Store};
use warpweft::format;
use warpweft::graph::GraphBuilder;
use warpweft::plan::{Options, plan};

/// What tests/figures/formats/make.py wrote of a format.
struct Figures {
    blocks: Vec<u8>,
    values: Vec<f32>,
    /// Values, and the blocks that the reference makes of them.
    encoded: Option<(Vec<f32>, Vec<u8>)>,
}

fn figures(dtype: DType) -> Figures {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/figures/formats/{dtype}.bin"));
    let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}: every format has figures", path.display()));
    let (count, rest) = bytes.split_at(4);
    let count = u32::from_le_bytes(count.try_into().unwrap()) as usize;
    let (blocks, rest) = rest.split_at(count * dtype.block_bytes());
    let floats = |b: &[u8]| b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect::<Vec<f32>>();
    let (values, rest) = rest.split_at(count * dtype.block() * 4);
    let encoded = (!rest.is_empty()).then(|| (floats(&rest[..512 * 4]), rest[512 * 4..].to_vec()));
    Figures { blocks: blocks.to_vec(), values: floats(values), encoded }
}

#[test]
fn blocks_mean_what_the_reference_says_to_the_last_bit() {
    for dtype in DType::weights().filter(|d| *d != DType::F32) {
        let f = figures(dtype);
        let got = format::decode(dtype, &f.blocks);
        assert_eq!(got.len(), f.values.len());
        for (i, (g, w)) in got.iter().zip(&f.values).enumerate() {
            assert_eq!(g.to_bits(), w.to_bits(), "{dtype}: element {i} is {g}, the reference says {w}");
        }
    }
}

#[test]
fn encoders_make_what_the_reference_makes() {
    let mut held = 0;
    for dtype in DType::weights().filter(|d| *d != DType::F32) {
        let Some((values, blocks)) = figures(dtype).encoded else { continue };
        let got = format::encode(dtype, &values);
        assert_eq!(got.len(), blocks.len());
        let size = dtype.block_bytes();
        for (i, (g, w)) in got.chunks(size).zip(blocks.chunks(size)).enumerate() {
            assert_eq!(g, w, "{dtype}: block {i}");
        }
        held += 1;
    }
    assert!(held >= 5, "only {held} formats");
}

/// Root of the mean square error of encoding normal values of unit variance, for formats of as many bits: what the formats can do at
/// best lies a little below.
#[test]
fn encoders_lose_no_more_than_their_bits_must() {
    let mut random = warpweft::reference::sample::Random::new(3);
    let values: Vec<f32> = (0..1 << 16).map(|_| random.normal() as f32).collect();
    for dtype in DType::quantised() {
        let back = format::decode(dtype, &format::encode(dtype, &values));
        let sum: f64 = back.iter().zip(&values).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum();
        let rms = (sum / values.len() as f64).sqrt();
        let bits = dtype.block_bytes() as f64 * 8.0 / dtype.block() as f64;
        let bound = 2.1 * (-bits + 0.5).exp2();
        println!("{dtype}: {bits:.2} bits a weight, root mean square error {rms:.5}");
        assert!(rms < bound, "{dtype}: {rms} with {bits} bits a weight, at most {bound}");
    }
}

#[test]
fn rows_that_the_device_looks_up_are_the_decoded_ones() {
    let Found::Device(gpu) = device(None) else { return };
    for dtype in DType::weights().filter(|d| *d != DType::F32) {
        let f = figures(dtype);
        let width = dtype.block().max(32);
        let rows = f.values.len() / width;
        let weights = HashMap::from([("w".to_string(), Array::new(dtype, &[rows, width], f.blocks).unwrap())]);
        let g = GraphBuilder::new();
        let ids = g.input("ids", DType::U32, [rows]);
        g.output("y", g.weight("w", dtype, [rows, width]).gather(ids));
        let graph = g.finish().unwrap();
        for texels in [false, true] {
            let mut options = Options::for_caps(gpu.caps());
            options.tuning.texels = texels;
            let got = pollster::block_on(async {
                let mut store = Store::new(gpu.clone());
                let plan = plan(&graph, gpu.caps(), &options)?;
                let mut program = Program::load(plan, &mut store, &weights, &mut |_, _| {}).await?;
                let ids = Array::u32(&[rows], &(0..rows as u32).collect::<Vec<_>>());
                program.step(&Bindings::new(), &[("ids", ids)], &["y"]).await
            });
            let got = got.unwrap().remove(0).to_f32();
            for (i, (g, w)) in got.iter().zip(&f.values).enumerate() {
                // Scales that are subnormal in f16 may be taken for nothing.
                assert!(
                    *g == *w || (*g == 0.0 && w.abs() < 0.02),
                    "{dtype} texels={texels}: element {i} is {g} for {w}"
                );
            }
        }
    }
}
