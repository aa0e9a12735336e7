//! Models in other formats: what `quantize` writes, files in parts, the perplexity of both.

mod common;

use common::Folder;
use common::gguf::{GgufFile, Meta};
use common::tiny::Tiny;
use std::path::Path;
use warpweft::base::{DType, Weights};
use warpweft::format::{self, MIXES, Mix};
use warpweft::model::{Model, ModelSource};
use warpweft::session::{DeviceChoice, perplexity, quantize};

fn message<R>(result: warpweft::base::Result<R>) -> String {
    result.err().expect("an error").to_string()
}

fn write(folder: &Folder, name: &str, file: &GgufFile) -> std::path::PathBuf {
    folder.file(name, file.bytes())
}

/// The file's tensors dealt out to `n` parts, the metadata in the first, as tools that split files do.
fn parts(file: &GgufFile, n: usize) -> Vec<GgufFile> {
    let each = file.tensors.len().div_ceil(n);
    let part = |(i, tensors): (usize, &[common::gguf::RawTensor])| {
        let mut part = GgufFile { tensors: tensors.to_vec(), ..GgufFile::default() };
        if i == 0 {
            part.meta = file.meta.clone();
        }
        part.set("split.no", Meta::U32(i as u32));
        part.set("split.count", Meta::U32(n as u32));
        part
    };
    file.tensors.chunks(each).enumerate().map(part).collect()
}

#[test]
fn a_model_in_parts_opens_by_its_first() {
    let folder = Folder::new("parts");
    let whole = Tiny::default().gguf();
    let one = ModelSource::open(write(&folder, "m.gguf", &whole)).unwrap();
    for (i, part) in parts(&whole, 3).iter().enumerate() {
        write(&folder, &format!("m-{:05}-of-00003.gguf", i + 1), part);
    }
    let at = |i: usize| folder.path().join(format!("m-{i:05}-of-00003.gguf"));
    let source = ModelSource::open(at(1)).unwrap();
    assert_eq!(source.tensors().len(), one.tensors().len());
    for t in one.tensors() {
        let rows = 0..t.shape[0] as usize;
        assert_eq!(source.read(&t.name, rows.clone()).unwrap(), one.read(&t.name, rows).unwrap(), "{}", t.name);
    }
    assert!(Model::new(source).is_ok());
    let later = message(ModelSource::open(at(2)));
    assert!(later.contains("is part 2 of 3: open m-00001-of-00003.gguf"), "{later}");
    std::fs::rename(at(2), folder.path().join("away")).unwrap();
    let missing = message(ModelSource::open(at(1)));
    assert!(missing.contains("m-00002-of-00003.gguf") && missing.contains("part 2 of 3"), "{missing}");
    std::fs::copy(at(3), at(2)).unwrap();
    assert!(message(ModelSource::open(at(1))).contains("is not part 2 of 3"));
    std::fs::rename(at(1), folder.path().join("first.gguf")).unwrap();
    let renamed = message(ModelSource::open(folder.path().join("first.gguf")));
    assert!(renamed.contains("does not end in -00001-of-00003.gguf"), "{renamed}");
}

/// Whether names other than those expected are in a folder: what was begun and not ended.
fn names(folder: &Path) -> Vec<String> {
    let mut out: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    out.sort();
    out
}

#[test]
fn every_mix_is_written_whole_and_reads_back() {
    let folder = Folder::new("mixes");
    let tiny = Tiny { width: 256, ffn: 256, heads: 4, ..Tiny::default() };
    let input = write(&folder, "in.gguf", &tiny.gguf());
    let source = ModelSource::open(&input).unwrap();
    let out = folder.path().join("out.gguf");
    for mix in MIXES {
        let mut told = vec![];
        let sizes = quantize(&input, &out, mix, &mut |q| {
            told.push(q.clone());
            Ok(())
        })
        .unwrap();
        let made = ModelSource::open(&out).unwrap();
        assert_eq!(made.weight_bytes(), sizes.after, "{}", mix.name);
        let (a, b) = (source.gguf().unwrap(), made.gguf().unwrap());
        for (key, value) in a.metadata.iter().filter(|m| m.0 != "general.file_type") {
            assert_eq!(b.get(key), Some(value), "{}: {key}", mix.name);
        }
        for q in &told {
            let rows = 0..q.shape[0] as usize;
            let read = |s: &ModelSource| {
                format::decode(s.info(&q.name).unwrap().dtype, &s.read(&q.name, rows.clone()).unwrap())
            };
            let (before, after) = (read(&source), read(&made));
            let lost: f64 = before.iter().zip(&after).map(|(x, y)| (*x as f64 - *y as f64).powi(2)).sum();
            let error = (lost / before.len() as f64).sqrt();
            assert!((error - q.error).abs() < 1e-9, "{} {}: said {}, is {error}", mix.name, q.name, q.error);
            assert!(error <= 0.4 * q.size.max(1e-9), "{} {}: {error} of {}", mix.name, q.name, q.size);
        }
        assert!(Model::new(made).is_ok());
    }
    assert_eq!(names(folder.path()), ["in.gguf", "out.gguf"]);
}

#[test]
fn what_cannot_be_quantised_is_refused_and_leaves_nothing() {
    let folder = Folder::new("refused");
    let input = write(&folder, "in.gguf", &Tiny::default().gguf());
    let q8 = Mix::named("q8_0").unwrap();
    let own = message(quantize(&input, &input, q8, &mut |_| Ok(())));
    assert!(own.contains("is the file that is read"), "{own}");
    let mut bad = Tiny::default().gguf();
    bad.tensor("blk.1.ffn_up.weight").data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let bad = write(&folder, "bad.gguf", &bad);
    let nan = message(quantize(&bad, &folder.path().join("out.gguf"), q8, &mut |_| Ok(())));
    assert!(nan.contains("blk.1.ffn_up.weight") && nan.contains("NaN"), "{nan}");
    let nowhere = message(quantize(&input, &folder.path().join("none/out.gguf"), q8, &mut |_| Ok(())));
    assert!(nowhere.contains("cannot be written"), "{nowhere}");
    assert_eq!(names(folder.path()), ["bad.gguf", "in.gguf"]);
}

#[test]
fn perplexity_is_that_of_the_models_probabilities() {
    let folder = Folder::new("perplexity");
    let input = write(&folder, "in.gguf", &Tiny::default().gguf());
    let text = "the quick brown fox jumps over the lazy dog, then the other".repeat(3);
    let open = |path: &Path| Model::new(ModelSource::open(path).unwrap()).unwrap();
    let of = |path: &Path| pollster::block_on(perplexity(&open(path), &text, &DeviceChoice::Cpu)).unwrap();
    let whole = of(&input);
    // A random model of 128 tokens knows about nothing.
    assert!(whole.tokens > 100 && (20.0..2000.0).contains(&whole.value), "{whole:?}");
    let mut before = 0.0;
    for (name, most) in [("q8_0", 0.01), ("q4_0", 0.3)] {
        let out = folder.path().join(format!("{name}.gguf"));
        quantize(&input, &out, Mix::named(name).unwrap(), &mut |_| Ok(())).unwrap();
        let apart = (of(&out).value / whole.value).ln().abs();
        assert!(apart < most && apart > before, "{name}: {apart}");
        before = apart;
    }
    let short = message(pollster::block_on(perplexity(&open(&input), "t", &DeviceChoice::Cpu)));
    assert!(short.contains("fewer than two tokens"), "{short}");
}

#[test]
fn the_tensors_of_a_published_file_are_those_that_the_reference_reads() {
    let path = common::cache().join("gemma-3-270m-q4_k_m.gguf");
    if !path.exists() {
        return common::skip("WARPWEFT_REQUIRE_GEMMA", &format!("{} is not there", path.display()));
    }
    let source = ModelSource::open(&path).unwrap();
    let figures = include_str!("figures/formats/gemma-3-270m.csv");
    assert_eq!(figures.lines().count(), source.tensors().len());
    for line in figures.lines() {
        let [name, dtype, count, sum, squares] = line.split(',').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let t = source.tensor(name).unwrap();
        let own = source.info(name).unwrap().dtype;
        assert_eq!(Some(own), DType::named(dtype), "{name}");
        let (mut n, mut s, mut q) = (0usize, 0.0f64, 0.0f64);
        let rows = t.shape[0] as usize;
        for first in (0..rows).step_by(4096) {
            for x in format::decode(own, &source.read(name, first..(first + 4096).min(rows)).unwrap()) {
                n += 1;
                s += x as f64;
                q += x as f64 * x as f64;
            }
        }
        let near = |a: f64, b: &str, of: f64| (a - b.parse::<f64>().unwrap()).abs() <= 1e-9 * of.max(1.0);
        assert_eq!(n.to_string(), count, "{name}");
        assert!(
            near(q, squares, q) && near(s, sum, q.sqrt() * (n as f64).sqrt()),
            "{name}: {s} and {q}, not {sum} and {squares}"
        );
    }
}
