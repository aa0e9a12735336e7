//! Whisper against figures of transformers, on the CPU and on the device: spectrograms, log-probabilities, tokens with and
//! without timestamps, sounds of several windows; WAV files of all kinds, and damaged ones.

use super::common::{Folder, Found, device, tiny};
use super::{figures, floats, folder, hold};
use pollster::block_on;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use warpweft::media::{LogMel, Sound, decode_wav};
use warpweft::session::{Cancel, DeviceChoice, Listening, Options, Precision, Segment, Transcriber};

const CASES: [&str; 2] = ["whisper", "whisper_en"];

/// The tokenizer of the encoders' tests with Whisper's markers behind its tokens, as speech.py makes it.
fn tokenizer() -> Vec<u8> {
    let path = folder().join("../encoders/bpe.tokenizer.json");
    let mut t: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let marks = "endoftext startoftranscript en de fr translate transcribe startofprev nospeech notimestamps";
    let mut names: Vec<(String, bool)> = marks.split(' ').map(|m| (format!("<|{m}|>"), true)).collect();
    names.extend((0..=100).map(|i| (format!("<|{:.2}|>", f64::from(i) * 0.02), false)));
    let added = t["added_tokens"].as_array_mut().unwrap();
    for (i, (content, special)) in names.into_iter().enumerate() {
        added.push(json!({"id": 300 + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special}));
    }
    t["post_processor"] = Json::Null;
    t.to_string().into_bytes()
}

fn write(figures: &Json, at: &Folder) -> PathBuf {
    at.file("config.json", figures["config"].to_string());
    at.file("generation_config.json", figures["generation"].to_string());
    at.file("preprocessor_config.json", figures["heard"].to_string());
    at.file("tokenizer.json", tokenizer());
    let mut tensors = vec![];
    for t in figures["tensors"].as_array().unwrap() {
        let name = t[0].as_str().unwrap();
        let shape: Vec<usize> = t[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        let values = tiny::fill(name, shape.iter().product(), t[2].as_f64().unwrap(), t[3].as_f64().unwrap());
        tensors.push((name.to_string(), "F32", shape, values.iter().flat_map(|x| x.to_le_bytes()).collect()));
    }
    at.file("model.safetensors", tiny::safetensors(&tensors));
    at.path().into()
}

fn open(path: &Path, device: &DeviceChoice) -> warpweft::Result<Transcriber> {
    let options = Options { device: device.clone(), precision: Precision::F32, ..Options::default() };
    block_on(Transcriber::open(path, &options))
}

fn heard(model: &mut Transcriber, wav: &str, how: &Listening) -> warpweft::Result<Vec<Segment>> {
    let (bytes, mut out) = (std::fs::read(folder().join(wav)).unwrap(), vec![]);
    let mut keep = |s: &Segment| {
        out.push(s.clone());
        Ok(())
    };
    block_on(model.transcribe(&bytes, Path::new(wav), how, &Cancel::new(), &mut keep))?;
    Ok(out)
}

fn check(device: &DeviceChoice) {
    for name in CASES {
        let (figures, at) = (figures(name), Folder::new("media"));
        let mut model = open(&write(&figures, &at), device).unwrap_or_else(|e| panic!("{name}: {e}"));
        for row in figures["rows"].as_array().unwrap() {
            let wav = row["wav"].as_str().unwrap();
            if let Some(prompt) = row["prompt"].as_array() {
                let tokens: Vec<u32> = prompt.iter().map(|t| t.as_u64().unwrap() as u32).collect();
                let sound = decode_wav(&std::fs::read(folder().join(wav)).unwrap(), Path::new(wav)).unwrap();
                let p = block_on(model.log_probabilities(&sound, &tokens)).unwrap();
                hold(&format!("{name} {wav}: log-probabilities"), &p, &floats(&row["log_probabilities"]), 2e-3);
            }
            for run in row["runs"].as_array().unwrap() {
                let (what, way) = (format!("{name} {wav} {}", run["way"]), &run["way"]);
                let how = Listening {
                    language: way["language"].as_str().map(String::from),
                    translate: way["task"] == "translate",
                    timestamps: way["return_timestamps"] == true,
                };
                let got = heard(&mut model, wav, &how).unwrap_or_else(|e| panic!("{what}: {e}"));
                let want = run["segments"].as_array().unwrap();
                assert_eq!(got.len(), want.len(), "{what}");
                for (got, want) in got.iter().zip(want) {
                    let mut tokens: Vec<u32> = serde_json::from_value(want["tokens"].clone()).unwrap();
                    // What follows a window's last piece is not of it.
                    if got.times.is_some() && tokens.len() == got.tokens.len() + 1 {
                        tokens.pop();
                    }
                    assert_eq!(got.tokens, tokens, "{what}");
                    let Some((from, to)) = got.times else { continue };
                    assert!((from - want["from"].as_f64().unwrap()).abs() < 1e-3, "{what}: {from}, {want}");
                    assert!((to - want["to"].as_f64().unwrap()).abs() < 1e-3, "{what}: {to}, {want}");
                }
            }
        }
    }
}

#[test]
fn speech_is_right_on_the_cpu() {
    check(&DeviceChoice::Cpu);
}

#[test]
fn speech_is_right_on_the_device() {
    let Found::Device(gpu) = device(None) else { return };
    check(&DeviceChoice::Open(gpu));
}

#[test]
fn spectrograms_are_those_of_transformers() {
    let figures = figures("whisper");
    let mel = LogMel::read(&figures["heard"], Path::new("p.json")).unwrap();
    for row in figures["rows"].as_array().unwrap() {
        let wav = row["wav"].as_str().unwrap();
        let mut sound = decode_wav(&std::fs::read(folder().join(wav)).unwrap(), Path::new(wav)).unwrap();
        if sound.samples.len() < mel.samples() {
            sound.samples.resize(mel.samples(), 0.0);
        }
        let got = mel.of(&sound.samples).unwrap();
        let shape: Vec<usize> = serde_json::from_value(row["mel_shape"].clone()).unwrap();
        assert_eq!(got.len(), shape.iter().product::<usize>());
        let every = row["mel_every"].as_u64().unwrap() as usize;
        hold(wav, &got.into_iter().step_by(every).collect::<Vec<_>>(), &floats(&row["mel"]), 1e-4);
    }
}

#[test]
fn what_a_model_of_speech_says_is_obeyed_or_refused_by_name() {
    let figures = figures("whisper");
    let refused = |file: &'static str, part: &str, key: &str, value: Json| {
        let at = Folder::new("media");
        let path = write(&figures, &at);
        let mut content = figures[part].clone();
        content[key] = value;
        at.file(file, content.to_string());
        let e = open(&path, &DeviceChoice::Cpu).err().unwrap_or_else(|| panic!("{key} went through")).to_string();
        assert!(e.contains(key) && !e.contains('\n'), "{key}: {e}");
    };
    let generation = "generation_config.json";
    refused(generation, "generation", "num_beams", json!(5));
    refused(generation, "generation", "repetition_penalty", json!(1.2));
    refused(generation, "generation", "no_repeat_ngram_size", json!(3));
    refused(generation, "generation", "suppress_tokens", json!([-1]));
    refused(generation, "generation", "eos_token_id", json!(99_999));
    refused(generation, "generation", "forced_decoder_ids", json!([[2, 300]]));
    refused("preprocessor_config.json", "heard", "do_normalize", json!(true));
    refused("preprocessor_config.json", "heard", "n_fft", json!(401));
    refused("preprocessor_config.json", "heard", "dither", json!(0.1));
    refused("config.json", "config", "attention_bias", json!(true));
    let at = Folder::new("media");
    let mut model = open(&write(&figures, &at), &DeviceChoice::Cpu).unwrap();
    let how = Listening { language: Some("xx".into()), ..Listening::default() };
    let e = heard(&mut model, "speech.wav", &how).unwrap_err().to_string();
    assert!(e.contains("xx") && e.contains("de, en, fr"), "{e}");
}

/// A WAV file of these bytes of samples.
fn wav(format: u16, channels: u16, rate: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let each = channels * bits / 8;
    let mut out = b"RIFF".to_vec();
    out.extend((36 + data.len() as u32).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0");
    out.extend(format.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend((rate * u32::from(each)).to_le_bytes());
    out.extend(each.to_le_bytes());
    out.extend(bits.to_le_bytes());
    out.extend(b"data");
    out.extend((data.len() as u32).to_le_bytes());
    out.extend(data);
    out
}

#[test]
fn every_kind_of_wav_is_the_same_sound() {
    let tone = |rate: u32, i: usize| (i as f64 / f64::from(rate) * 440.0 * std::f64::consts::TAU).sin() * 0.5;
    let rate = 16_000;
    let values: Vec<f64> = (0..1600).map(|i| tone(rate, i)).collect();
    let int = |bits: u32| {
        move |x: &f64| {
            let most = f64::from(1u32 << (bits - 1));
            (x * most).round().min(most - 1.0) as i32
        }
    };
    let read = |bytes: &[u8]| decode_wav(bytes, Path::new("x.wav")).unwrap();
    let data8: Vec<u8> = values.iter().map(|x| (int(8)(x) + 128) as u8).collect();
    let data16: Vec<u8> = values.iter().flat_map(|x| (int(16)(x) as i16).to_le_bytes()).collect();
    let data24: Vec<u8> = values.iter().flat_map(|x| int(24)(x).to_le_bytes()[..3].to_vec()).collect();
    let floats32: Vec<u8> = values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    // The other channel has nothing.
    let stereo: Vec<u8> =
        values.iter().flat_map(|x| [int(16)(&(x * 2.0)) as i16, 0]).flat_map(i16::to_le_bytes).collect();
    for (bytes, near) in [
        (wav(1, 1, rate, 8, &data8), 1e-2),
        (wav(1, 1, rate, 16, &data16), 1e-4),
        (wav(1, 1, rate, 24, &data24), 1e-6),
        (wav(3, 1, rate, 32, &floats32), 1e-7),
        (wav(1, 2, rate, 16, &stereo), 1e-4),
    ] {
        hold("wav", &read(&bytes).samples, &values, near);
    }
    // Other rates, away from the ends: the same tone.
    for other in [8_000, 11_025, 44_100, 48_000] {
        let samples = (0..other as usize).map(|i| tone(other, i) as f32).collect();
        let sound = Sound { rate: other, samples }.at_rate(rate).unwrap();
        assert!(sound.samples.len().abs_diff(rate as usize) <= 1, "{other}: {}", sound.samples.len());
        let middle = 4000..12_000;
        let want: Vec<f64> = middle.clone().map(|i| tone(rate, i)).collect();
        hold(&format!("{other}"), &sound.samples[middle], &want, 2e-3);
    }
}

#[test]
fn damaged_sounds_are_one_line_of_error() {
    let told = |bytes: &[u8]| {
        let e = decode_wav(bytes, Path::new("x.wav")).map(|s| s.samples.len()).unwrap_err().to_string();
        assert!(e.starts_with("x.wav: ") && !e.contains('\n') && e.len() < 600, "{e}");
    };
    let good = wav(1, 1, 16_000, 16, &[1; 400]);
    decode_wav(&good, Path::new("x.wav")).unwrap();
    told(b"");
    told(b"RIFF");
    told(b"OggS");
    told(&good[..60]);
    told(&wav(1, 1, 16_000, 16, &[]));
    told(&wav(1, 0, 16_000, 16, &[1; 400]));
    told(&wav(1, 1, 0, 16, &[1; 400]));
    told(&wav(1, 1, u32::MAX / 4, 16, &[1; 400]));
    told(&wav(1, 1, 16_000, 12, &[1; 400]));
    told(&wav(7, 1, 16_000, 8, &[1; 400]));
    told(&wav(3, 1, 16_000, 32, &f32::NAN.to_le_bytes()));
    // A header that claims 4 GiB of samples.
    let mut claims = good.clone();
    claims[40..44].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    told(&claims);
}

#[test]
fn the_command_line_writes_down_what_is_said() {
    let (figures, at) = (figures("whisper"), Folder::new("media"));
    let (model, wav) = (write(&figures, &at), folder().join("speech_long.wav"));
    let (model, wav) = (model.to_str().unwrap(), wav.to_str().unwrap());
    let args = ["transcribe", model, wav, "--language", "de", "--json", "--device", "cpu", "--cache", model];
    let (ok, out, err) = super::program(&args);
    assert!(ok, "{err}");
    let lines: Vec<Json> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let runs = figures["rows"][1]["runs"].as_array().unwrap();
    let run = runs.iter().find(|r| r["way"]["language"] == "de").unwrap();
    let want = run["segments"].as_array().unwrap();
    assert_eq!(lines.len(), want.len());
    for (line, want) in lines.iter().zip(want) {
        assert!((line["from"].as_f64().unwrap() - want["from"].as_f64().unwrap()).abs() < 1e-3, "{line}");
        assert_eq!(line["tokens"][0], want["tokens"][0]);
    }
    let (ok, _, err) = super::program(&["run", model, "-p", "x", "--device", "cpu", "--cache", model]);
    assert!(!ok && err.contains("transcribe"), "{err}");
}
