//! Tiny, seeded checkpoints that are whole models: what tests break in one place, and what they run everywhere.

use super::gguf::{GgufFile, Meta, RawTensor};
use std::path::Path;
use warpweft::base::DType;
use warpweft::format;
use warpweft::reference::sample::Random;

/// The sizes and kinds of a tiny llama.
#[derive(Debug, Clone)]
pub struct Tiny {
    pub dtype: DType,
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub ffn: usize,
    pub vocab: usize,
    pub context: usize,
    /// Whether the head shares the embedding.
    pub tied: bool,
    pub window: Option<u32>,
    pub seed: u64,
}

impl Default for Tiny {
    fn default() -> Self {
        Tiny {
            dtype: DType::F32,
            layers: 2,
            width: 64,
            heads: 4,
            kv_heads: 2,
            ffn: 96,
            vocab: 128,
            context: 64,
            tied: true,
            window: None,
            seed: 1,
        }
    }
}

/// Elements of a tensor by its name: FNV-1a seeds splitmix64, 24 bits a number, uniform in ±scale around the shift.
pub fn fill(name: &str, count: usize, scale: f64, shift: f64) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3));
    let one = |i: u64| {
        let mut z = seed.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let u = (z >> 40) as f64 / (1u64 << 24) as f64;
        ((2.0 * u - 1.0) * scale + shift) as f32
    };
    (1..=count as u64).map(one).collect()
}

/// A matrix by its GGUF name, outermost axis first; rows of q and k in the order that model folders have.
pub struct Matrix {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

pub const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

/// GPT-2's letters for printable ASCII, space and newline, the marker first; padded to `n`.
pub fn tokens(n: usize) -> Vec<String> {
    let mut tokens: Vec<String> = vec!["<|end|>".into()];
    tokens.extend((b'!'..=b'~').map(|b| (b as char).to_string()));
    tokens.extend(["Ġ", "Ċ", "he", "Ġt", "Ġthe"].map(String::from));
    tokens.extend((tokens.len()..n).map(|i| format!("<pad{i}>")));
    tokens
}

pub const MERGES: [&str; 3] = ["h e", "Ġ t", "Ġt he"];

impl Tiny {
    fn head(&self) -> usize {
        self.width / self.heads
    }

    pub fn matrices(&self) -> Vec<Matrix> {
        let mut r = Random::new(self.seed);
        let mut make = |name: String, shape: Vec<usize>| {
            let n = shape.iter().product::<usize>();
            let norm = shape.len() == 1;
            let values =
                (0..n).map(|_| if norm { 1.0 + 0.1 * r.normal() as f32 } else { 0.15 * r.normal() as f32 }).collect();
            Matrix { name, shape, values }
        };
        let kv = self.kv_heads * self.head();
        let mut out = vec![
            make("token_embd.weight".into(), vec![self.vocab, self.width]),
            make("output_norm.weight".into(), vec![self.width]),
        ];
        if !self.tied {
            out.push(make("output.weight".into(), vec![self.vocab, self.width]));
        }
        for l in 0..self.layers {
            let (w, f) = (self.width, self.ffn);
            let parts = [
                ("attn_norm", vec![w]),
                ("attn_q", vec![w, w]),
                ("attn_k", vec![kv, w]),
                ("attn_v", vec![kv, w]),
                ("attn_output", vec![w, w]),
                ("ffn_norm", vec![w]),
                ("ffn_gate", vec![f, w]),
                ("ffn_up", vec![f, w]),
                ("ffn_down", vec![w, f]),
            ];
            out.extend(parts.map(|(name, shape)| make(format!("blk.{l}.{name}.weight"), shape)));
        }
        out
    }

    /// A valid file, with norms in f32 as converters write them.
    pub fn gguf(&self) -> GgufFile {
        let mut file = GgufFile::default();
        let sizes = [
            ("block_count", self.layers),
            ("embedding_length", self.width),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("feed_forward_length", self.ffn),
            ("context_length", self.context),
        ];
        file.set("general.architecture", Meta::Text("llama".into()));
        sizes.iter().for_each(|(k, n)| file.set(&format!("llama.{k}"), Meta::U32(*n as u32)));
        file.set("llama.attention.layer_norm_rms_epsilon", Meta::F32(1e-5));
        file.set("llama.rope.freq_base", Meta::F32(10000.0));
        if let Some(n) = self.window {
            file.set("llama.attention.sliding_window", Meta::U32(n));
        }
        let tokens = tokens(self.vocab);
        let types = (0..tokens.len()).map(|i| if i == 0 { 3 } else { 1 }).collect();
        file.set("tokenizer.ggml.model", Meta::Text("gpt2".into()));
        file.set("tokenizer.ggml.pre", Meta::Text("default".into()));
        file.set("tokenizer.ggml.tokens", Meta::Texts(tokens));
        file.set("tokenizer.ggml.token_type", Meta::Ints(types));
        file.set("tokenizer.ggml.merges", Meta::Texts(MERGES.map(String::from).to_vec()));
        file.set("tokenizer.ggml.bos_token_id", Meta::U32(0));
        file.set("tokenizer.ggml.eos_token_id", Meta::U32(0));
        file.set("tokenizer.ggml.add_bos_token", Meta::Bool(0));
        file.set("tokenizer.chat_template", Meta::Text(TEMPLATE.into()));
        for m in self.matrices() {
            let heads = match m.name.contains("attn_q") {
                true => Some(self.heads),
                false => m.name.contains("attn_k").then_some(self.kv_heads),
            };
            let values = heads.map_or(m.values.clone(), |h| interleave(&m.values, h, self.head(), self.width));
            let dtype = if m.shape.len() == 1 { DType::F32 } else { self.dtype };
            let dims = m.shape.iter().rev().map(|d| *d as u64).collect();
            file.tensors.push(RawTensor {
                name: m.name,
                dims,
                ty: ggml_type(dtype),
                data: format::encode(dtype, &values),
                offset: None,
            });
        }
        file
    }

    /// The same model as a folder: f32, f16, or bf16 where `bf16`.
    pub fn folder(&self, at: &Path, bf16: bool) {
        std::fs::write(at.join("model.safetensors"), safetensors(&self.tensors_of_folder(at, bf16))).unwrap();
    }

    /// The same folder with its tensors in two files and their index.
    pub fn folder_in_two(&self, at: &Path) {
        let all = self.tensors_of_folder(at, false);
        let (first, second) = all.split_at(all.len() / 2);
        let mut map = serde_json::Map::new();
        for (name, tensors) in
            [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)]
        {
            std::fs::write(at.join(name), safetensors(tensors)).unwrap();
            tensors.iter().for_each(|t| drop(map.insert(t.0.clone(), name.into())));
        }
        let index = serde_json::json!({ "metadata": { "total_size": 0 }, "weight_map": map });
        std::fs::write(at.join("model.safetensors.index.json"), index.to_string()).unwrap();
    }

    /// Writes what a folder has beside its tensors, and gives those: name, type, shape, bytes.
    fn tensors_of_folder(&self, at: &Path, bf16: bool) -> Vec<(String, &'static str, Vec<usize>, Vec<u8>)> {
        std::fs::create_dir_all(at).unwrap();
        let config = serde_json::json!({
            "model_type": if self.window.is_some() { "mistral" } else { "llama" }, "num_hidden_layers": self.layers, "hidden_size": self.width, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "intermediate_size": self.ffn, "vocab_size": self.vocab,
            "max_position_embeddings": self.context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "sliding_window": self.window,
        });
        std::fs::write(at.join("config.json"), config.to_string()).unwrap();
        std::fs::write(at.join("tokenizer.json"), tokenizer_json(self.vocab).to_string()).unwrap();
        let words = serde_json::json!({ "bos_token": "<|end|>", "eos_token": { "content": "<|end|>" }, "chat_template": TEMPLATE });
        std::fs::write(at.join("tokenizer_config.json"), words.to_string()).unwrap();
        let one = |m: Matrix| {
            let bytes: Vec<u8> = match (bf16, self.dtype) {
                (true, _) => m.values.iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect(),
                (false, dtype) => format::encode(dtype, &m.values),
            };
            let dtype = if bf16 {
                "BF16"
            } else if self.dtype == DType::F16 {
                "F16"
            } else {
                "F32"
            };
            (folder_name(&m.name), dtype, m.shape, bytes)
        };
        self.matrices().into_iter().map(one).collect()
    }
}

/// What model folders call a tensor.
fn folder_name(gguf: &str) -> String {
    let parts = [
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    match gguf {
        "token_embd.weight" => "model.embed_tokens.weight".into(),
        "output_norm.weight" => "model.norm.weight".into(),
        "output.weight" => "lm_head.weight".into(),
        _ => {
            let name: Vec<&str> = gguf.split('.').collect();
            let part = parts.iter().find(|p| p.0 == name[2]).unwrap().1;
            format!("model.layers.{}.{part}.weight", name[1])
        }
    }
}

/// Rows of each head from halves to pairs: rows 0, 1, 2, 3 become 0, 2, 1, 3.
fn interleave(values: &[f32], heads: usize, head: usize, width: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for h in 0..heads {
        for i in 0..head {
            let from = h * head + i / 2 + (i % 2) * head / 2;
            out.extend_from_slice(&values[from * width..(from + 1) * width]);
        }
    }
    out
}

pub fn ggml_type(dtype: DType) -> u32 {
    dtype.format().ggml.unwrap()
}

pub fn tokenizer_json(vocab: usize) -> serde_json::Value {
    let vocab: serde_json::Map<_, _> = tokens(vocab).into_iter().enumerate().map(|(i, t)| (t, i.into())).collect();
    serde_json::json!({
        "version": "1.0", "normalizer": null, "post_processor": null,
        "added_tokens": [{ "id": 0, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true }],
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "decoder": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "vocab": vocab, "merges": MERGES },
    })
}

/// A safetensors file: name, type, shape, bytes of each tensor.
pub fn safetensors(tensors: &[(String, &str, Vec<usize>, Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut at = 0;
    for (name, dtype, shape, bytes) in tensors {
        header.insert(
            name.clone(),
            serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, at + bytes.len()] }),
        );
        at += bytes.len();
    }
    let data: Vec<u8> = tensors.iter().flat_map(|t| t.3.iter().copied()).collect();
    with_header(&serde_json::Value::Object(header).to_string(), &data)
}

/// A safetensors file of this header text.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(data);
    out
}
