//! GGUF files broken in one place each.

use super::{message, within};
use crate::common::Folder;
use crate::common::gguf::{GgufFile, Meta, RawTensor};
use crate::common::tiny::Tiny;
use proptest::prelude::*;
use warpweft::base::Result;
use warpweft::model::{Model, ModelSource, StepShape};

/// Opens a model and builds its graph, which is as far as a file is read before weights are.
fn open(path: &std::path::Path) -> Result<Model> {
    let model = Model::new(ModelSource::open(path)?)?;
    let context = model.info().context.min(64);
    let total = warpweft::base::Var::new("total", context as u32);
    model.step_graph(&StepShape { seq: 1.into(), total, context, last_only: true, sequence_parallel: false })?;
    Ok(model)
}

fn refused(folder: &Folder, name: &str, bytes: &[u8]) -> String {
    let path = folder.file("m.gguf", bytes);
    within(name, bytes.len(), || message(folder, open(&path)))
}

/// What is broken, and how.
type Case = (&'static str, fn(&mut GgufFile));

fn table(name: &str, cases: &[Case]) -> String {
    let folder = Folder::new(name);
    let mut out = String::new();
    for (what, change) in cases {
        let mut file = Tiny::default().gguf();
        change(&mut file);
        out += &format!("{what}\n    {}\n", refused(&folder, what, &file.bytes()));
    }
    out
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = Folder::new("cut");
    let (bytes, mut marks) = Tiny::default().gguf().write();
    assert_eq!(refused(&folder, "whole", &bytes), "opened");
    let mut random = warpweft::reference::sample::Random::new(5);
    marks.extend((0..300).map(|_| random.below(bytes.len())));
    for at in marks.into_iter().filter(|at| *at < bytes.len()) {
        let said = refused(&folder, &format!("cut at {at}"), &bytes[..at]);
        assert!(
            said.starts_with("m.gguf: ")
                && (said.contains("download it again") || at < 24 || said.contains("bytes follow")),
            "cut at {at}: {said}"
        );
    }
}

/// An array of type `ty` that claims `n` elements and holds `bytes`.
fn array(ty: u32, n: u64, bytes: &[u8]) -> Meta {
    let mut out = ty.to_le_bytes().to_vec();
    out.extend(n.to_le_bytes());
    out.extend(bytes);
    Meta::Raw(9, out)
}

fn nested(depth: usize) -> Meta {
    let mut bytes = vec![];
    for _ in 0..depth {
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    Meta::Raw(9, bytes)
}

#[test]
fn lying_headers() {
    let said = table(
        "headers",
        &[
            ("another magic", |f| f.magic = *b"GGML"),
            ("version 0", |f| f.version = 0),
            ("version 1", |f| f.version = 1),
            ("version 4", |f| f.version = 4),
            ("big-endian", |f| f.version = 3u32.swap_bytes()),
            ("2^64 - 1 tensors", |f| f.tensor_count = Some(u64::MAX)),
            ("2^64 - 1 keys", |f| f.key_count = Some(u64::MAX)),
            ("a tensor more than there is", |f| f.tensor_count = Some(f.tensors.len() as u64 + 1)),
            ("a key more than there is", |f| f.key_count = Some(f.meta.len() as u64 + 1)),
            ("a key less than there is", |f| f.key_count = Some(f.meta.len() as u64 - 1)),
            ("alignment 0", |f| f.set("general.alignment", Meta::U32(0))),
            ("alignment 24", |f| f.set("general.alignment", Meta::U32(24))),
            ("alignment 2^31", |f| f.set("general.alignment", Meta::U32(1 << 31))),
            ("alignment 2^63", |f| f.set("general.alignment", Meta::U64(1 << 63))),
            ("alignment as text", |f| f.set("general.alignment", Meta::Text("32".into()))),
            ("a larger alignment than is kept", |f| f.set("general.alignment", Meta::U32(1 << 16))),
            ("a key twice", |f| f.meta.push(f.meta[3].clone())),
            ("an unknown value type", |f| f.set("x", Meta::Raw(13, vec![0; 8]))),
            ("a bool of 2", |f| f.set("x", Meta::Bool(2))),
            ("a text longer than the file", |f| f.set("x", Meta::Raw(8, (1u64 << 40).to_le_bytes().to_vec()))),
            ("a text of 2^64 - 1 bytes", |f| f.set("x", Meta::Raw(8, u64::MAX.to_le_bytes().to_vec()))),
            ("an array longer than the file", |f| f.set("x", array(4, 1 << 40, &[]))),
            ("an array of 2^64 - 1 texts", |f| f.set("x", array(8, u64::MAX, &[]))),
            ("an array of an unknown type", |f| f.set("x", array(99, 1, &[0; 8]))),
            ("an array with a bool of 7", |f| f.set("x", array(7, 2, &[1, 7]))),
            ("an array of u64 above i64", |f| f.set("x", array(10, 1, &[0xff; 8]))),
            ("arrays nested 5 deep", |f| f.set("x", nested(5))),
            ("arrays nested 20,000 deep", |f| f.set("x", nested(20_000))),
        ],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn lying_tensors() {
    fn first(f: &mut GgufFile) -> &mut RawTensor {
        &mut f.tensors[0]
    }
    let said = table(
        "tensors",
        &[
            ("no dimensions", |f| first(f).dims.clear()),
            ("5 dimensions", |f| first(f).dims = vec![1; 5]),
            ("1,000 dimensions", |f| first(f).dims = vec![1; 1000]),
            ("dims whose product is beyond 2^64", |f| first(f).dims = vec![1 << 33, 1 << 33]),
            ("dims whose product wraps to what is there", |f| first(f).dims = vec![64, 128 + (1 << 58)]),
            ("dims whose bytes are beyond 2^64", |f| first(f).dims = vec![1 << 31, 1 << 31]),
            ("a dimension of 0", |f| first(f).dims = vec![0, 128]),
            ("a dimension of 2^63", |f| first(f).dims = vec![0, 1 << 63]),
            ("an offset of 2^64 - 32", |f| first(f).offset = Some(u64::MAX - 31)),
            ("an offset behind the file", |f| first(f).offset = Some(1 << 40)),
            ("an offset that is not aligned", |f| first(f).offset = Some(4)),
            ("two tensors at one place", |f| f.tensors[1].offset = Some(0)),
            ("two tensors that overlap", |f| f.tensors[1].offset = Some(f.tensors[0].data.len() as u64 - 32)),
            ("a tensor twice", |f| f.tensors[1].name = f.tensors[0].name.clone()),
            ("an unknown type", |f| first(f).ty = 77),
            ("a type that was removed (q4_2)", |f| first(f).ty = 4),
            ("q4_k", |f| {
                let t = f.tensor("blk.1.ffn_up.weight");
                (t.ty, t.dims, t.data) = (12, vec![256, 24], vec![0; 24 * 144]);
            }),
            ("rows of parts of blocks", |f| {
                let t = f.tensor("blk.0.attn_q.weight");
                (t.ty, t.dims, t.data) = (2, vec![48, 64], vec![0; 48 * 64 / 32 * 18]);
            }),
            ("a tensor that is missing", |f| f.tensors.retain(|t| t.name != "blk.1.attn_v.weight")),
            ("the embedding is missing", |f| f.tensors.retain(|t| t.name != "token_embd.weight")),
            ("the last norm is missing", |f| f.tensors.retain(|t| t.name != "output_norm.weight")),
            ("a shape that is turned", |f| f.tensor("blk.0.ffn_down.weight").dims.reverse()),
            ("a norm of another width", |f| f.tensor("blk.0.attn_norm.weight").dims = vec![32]),
            ("a norm that is q8_0", |f| {
                let t = f.tensor("blk.0.attn_norm.weight");
                (t.ty, t.data) = (8, vec![0; 64 / 32 * 34]);
            }),
            ("an embedding of one row a number", |f| f.tensor("token_embd.weight").dims = vec![64 * 128]),
            ("a head of another width", |f| {
                f.tensors.push(RawTensor {
                    name: "output.weight".into(),
                    dims: vec![32, 128],
                    ty: 0,
                    data: vec![0; 32 * 128 * 4],
                    offset: None,
                })
            }),
            ("a bias", |f| {
                f.tensors.push(RawTensor {
                    name: "blk.0.attn_q.bias".into(),
                    dims: vec![64],
                    ty: 0,
                    data: vec![0; 256],
                    offset: None,
                })
            }),
            ("frequencies of its own", |f| {
                f.tensors.push(RawTensor {
                    name: "rope_freqs.weight".into(),
                    dims: vec![8],
                    ty: 0,
                    data: vec![0; 32],
                    offset: None,
                })
            }),
            ("i32 weights", |f| f.tensor("blk.0.attn_output.weight").ty = 26),
        ],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn unusable_sizes() {
    fn set(f: &mut GgufFile, key: &str, value: Meta) {
        f.set(&format!("llama.{key}"), value);
    }
    let said = table(
        "sizes",
        &[
            ("no architecture", |f| f.remove("general.architecture")),
            ("an architecture that is a number", |f| f.set("general.architecture", Meta::U32(1))),
            ("another architecture", |f| f.set("general.architecture", Meta::Text("rwkv".into()))),
            ("bert in a GGUF", |f| f.set("general.architecture", Meta::Text("bert".into()))),
            ("an architecture of 200 letters", |f| f.set("general.architecture", Meta::Text("x".repeat(200)))),
            ("no layers given", |f| f.remove("llama.block_count")),
            ("0 layers", |f| set(f, "block_count", Meta::U32(0))),
            ("a layer more than there is", |f| set(f, "block_count", Meta::U32(3))),
            ("2^31 layers", |f| set(f, "block_count", Meta::U32(1 << 31))),
            ("2^40 layers", |f| set(f, "block_count", Meta::U64(1 << 40))),
            ("layers as text", |f| set(f, "block_count", Meta::Text("2".into()))),
            ("0 heads", |f| set(f, "attention.head_count", Meta::U32(0))),
            ("3 heads", |f| set(f, "attention.head_count", Meta::U32(3))),
            ("heads an array", |f| set(f, "attention.head_count", Meta::Ints(vec![4, 4]))),
            ("0 key heads", |f| set(f, "attention.head_count_kv", Meta::U32(0))),
            ("3 key heads", |f| set(f, "attention.head_count_kv", Meta::U32(3))),
            ("1.5 key heads", |f| set(f, "attention.head_count_kv", Meta::F32(1.5))),
            ("key heads an array", |f| set(f, "attention.head_count_kv", Meta::Ints(vec![2, 2]))),
            ("heads of odd width", |f| set(f, "attention.key_length", Meta::U32(15))),
            ("heads of width 0", |f| set(f, "attention.key_length", Meta::U32(0))),
            ("heads of width 16.5", |f| set(f, "attention.key_length", Meta::F32(16.5))),
            ("heads of width 512", |f| set(f, "attention.key_length", Meta::U32(512))),
            ("values of another width", |f| set(f, "attention.value_length", Meta::U32(32))),
            ("epsilon NaN", |f| set(f, "attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN))),
            ("epsilon -1", |f| set(f, "attention.layer_norm_rms_epsilon", Meta::F32(-1.0))),
            ("rope base 0", |f| set(f, "rope.freq_base", Meta::F32(0.0))),
            ("rope base infinite", |f| set(f, "rope.freq_base", Meta::F32(f32::INFINITY))),
            ("half of a head turned", |f| set(f, "rope.dimension_count", Meta::U32(8))),
            ("yarn", |f| set(f, "rope.scaling.type", Meta::Text("yarn".into()))),
            ("scaling by 0", |f| {
                set(f, "rope.scaling.type", Meta::Text("linear".into()));
                set(f, "rope.scaling.factor", Meta::F32(0.0));
            }),
            ("a window of -1", |f| set(f, "attention.sliding_window", Meta::F32(-1.0))),
            ("a window of 2.5", |f| set(f, "attention.sliding_window", Meta::F32(2.5))),
            ("a width of 0", |f| set(f, "embedding_length", Meta::U32(0))),
            ("a width that is not the tensors'", |f| set(f, "embedding_length", Meta::U32(128))),
            ("a window of 0, which is none", |f| set(f, "attention.sliding_window", Meta::U32(0))),
            ("a network of 2^31", |f| set(f, "feed_forward_length", Meta::U32(1 << 31))),
            ("a context of 0", |f| set(f, "context_length", Meta::U32(0))),
            ("a context of NaN", |f| set(f, "context_length", Meta::F32(f32::NAN))),
        ],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn what_is_no_file_of_a_model() {
    let folder = Folder::new("nothing");
    folder.file("empty.gguf", b"");
    folder.file("text.gguf", b"<!DOCTYPE html><title>404 Not Found</title>");
    folder.file("x.bin", [0x80, 2, b'}', b'q', 0, b'.']);
    std::fs::create_dir_all(folder.path().join("empty")).unwrap();
    let mut out = String::new();
    for name in ["missing.gguf", "empty.gguf", "text.gguf", "x.bin", "empty"] {
        out += &format!("{name}\n    {}\n", message(&folder, open(&folder.path().join(name))));
    }
    insta::assert_snapshot!(out);
}

#[cfg(unix)]
#[test]
fn a_device_or_pipe_is_no_model() {
    let folder = Folder::new("pipe");
    let pipe = folder.path().join("pipe.gguf");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let said = message(&folder, open(&pipe));
    assert_eq!(said, "pipe.gguf: is not a regular file");
    assert_eq!(message(&folder, open("/dev/zero".as_ref())), "/dev/zero: is not a regular file");
}

#[test]
fn many_small_strings_take_memory_in_proportion() {
    // The worst ratio of memory to file: 8 bytes of an empty string become a String of 24.
    let mut file = Tiny::default().gguf();
    file.set("x", array(8, 500_000, &vec![0; 8 * 500_000]));
    let folder = Folder::new("strings");
    assert_eq!(refused(&folder, "empty strings", &file.bytes()), "opened");
    let mut file = Tiny::default().gguf();
    let mut lists = vec![];
    for _ in 0..200_000 {
        lists.extend(4u32.to_le_bytes());
        lists.extend(0u64.to_le_bytes());
    }
    file.set("x", array(9, 200_000, &lists));
    assert_eq!(refused(&folder, "empty lists", &file.bytes()), "opened");
}

#[test]
fn names_that_are_no_text_are_shown_without_harm() {
    let folder = Folder::new("names");
    let mut file = Tiny::default().gguf();
    (file.tensors[0].name, file.tensors[1].name) = ("a\n\u{1b}[31mred\u{0}".into(), "a\n\u{1b}[31mred\u{0}".into());
    let said = refused(&folder, "control characters", &file.bytes());
    assert_eq!(said, "m.gguf: tensor \"a \\u{1b}[31mred\\u{0}\" is there twice");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any few bytes of the header changed to anything: an error or a model, never a panic.
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..6500, any::<u8>()), 1..6)) {
        let mut bytes = Tiny { layers: 1, ..Tiny::default() }.gguf().bytes();
        for (at, to) in flips {
            let at = at % bytes.len();
            bytes[at] = to;
        }
        let folder = Folder::new("flips");
        refused(&folder, "flips", &bytes);
    }
}
