//! Steps over rows of many sequences: attention over pages against attention of each sequence alone; batches whose sequences
//! come and go, wait for memory and share prefixes give the tokens that each gets alone.

mod common;

use common::tiny::Tiny;
use common::{Folder, Found, device, needed_adapter};
use pollster::block_on;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use warpweft::base::{Array, Bindings, DType, Error, Var};
use warpweft::device::Gpu;
use warpweft::graph::{Attention, Graph, GraphBuilder, Paged};
use warpweft::reference::Interpreter;
use warpweft::reference::sample::Random;
use warpweft::session::{
    Batch, BatchOptions, DeviceChoice, Engine, Generator, Made, Options, Precision, Request, Token,
};
use warpweft::text::Sampling;

// ---- attention over pages ---------------------------------------------------------------------------------------

/// Heads, key heads, elements of a head, tokens of a page.
#[derive(Clone, Copy)]
struct Form {
    h: usize,
    g: usize,
    d: usize,
    page: usize,
    how: Attention,
}

/// Sequences of these lengths in one step, their rows mixed, their pages anywhere in a pool that holds NaN elsewhere.
struct Laid {
    lengths: Vec<usize>,
    pages: usize,
    per: usize,
    /// For each row its sequence and position.
    rows: Vec<(usize, usize)>,
    tables: Vec<u32>,
    places: Vec<u32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

fn laid(f: Form, lengths: &[usize], seed: u64) -> Laid {
    let mut r = Random::new(seed);
    let per = lengths.iter().max().unwrap().div_ceil(f.page) + 1;
    let pages = lengths.iter().map(|n| n.div_ceil(f.page)).sum::<usize>() + 3;
    let mut order: Vec<u32> = (0..pages as u32).collect();
    (1..pages).rev().for_each(|i| order.swap(i, r.below(i + 1)));
    // What is behind a sequence's last page is never read, whatever it says.
    let mut tables = vec![u32::MAX; lengths.len() * per];
    for (s, n) in lengths.iter().enumerate() {
        for p in 0..n.div_ceil(f.page) {
            tables[s * per + p] = order.pop().unwrap();
        }
    }
    // Runs of some rows of each in turn.
    let (mut rows, mut done) = (vec![], vec![0; lengths.len()]);
    while rows.len() < lengths.iter().sum() {
        let s = r.below(lengths.len());
        let n = (1 + r.below(9)).min(lengths[s] - done[s]);
        rows.extend((done[s]..done[s] + n).map(|at| (s, at)));
        done[s] += n;
    }
    let place = |(s, at): &(usize, usize)| tables[s * per + at / f.page] * f.page as u32 + (at % f.page) as u32;
    let places = rows.iter().map(place).collect();
    let mut normal = |n: usize| (0..n).map(|_| r.normal() as f32).collect::<Vec<f32>>();
    let n = rows.len();
    let (q, k, v) = (normal(n * f.h * f.d), normal(n * f.g * f.d), normal(n * f.g * f.d));
    Laid { lengths: lengths.to_vec(), pages, per, rows, tables, places, q, k, v }
}

fn paged_graph(f: Form, l: &Laid) -> Graph {
    kept_graph(f, l, l.rows.len(), DType::F32)
}

/// Attention of `n` rows over pools of type `kv`.
fn kept_graph(f: Form, l: &Laid, n: usize, kv: DType) -> Graph {
    let g = GraphBuilder::new();
    let words = |name: &str| g.input(name, DType::U32, [n]);
    let places = words("places");
    let pool = |name: &str| {
        let new = g.input(&format!("new {name}"), DType::F32, [n, f.g * f.d]);
        let rows = l.pages * f.page;
        match kv.is_quantised() {
            true => g.state(name, kv, [rows, f.g, f.d]).append_at(new.reshape([n, f.g, f.d]), places),
            false => g.state(name, kv, [rows, f.g * f.d]).append_at(new, places).reshape([rows, f.g, f.d]),
        }
    };
    let (keys, values) = (pool("k"), pool("v"));
    let tables = g.input("tables", DType::U32, [l.lengths.len(), l.per]);
    let at = Paged { keys, values, tables, sequences: words("sequences"), positions: words("positions") };
    let sinks = f.how.sinks.then(|| g.input("sinks", DType::F32, [f.h]));
    let q = g.input("q", DType::F32, [n, f.h, f.d]);
    g.output("y", q.paged_attention(at, sinks, f.page as u32, Attention { sinks: false, ..f.how }));
    g.finish().unwrap()
}

fn sinks(h: usize) -> Vec<f32> {
    (0..h).map(|i| i as f32 * 0.5 - 1.0).collect()
}

fn paged_inputs(f: Form, l: &Laid) -> Vec<(&'static str, Array)> {
    some_inputs(f, l, 0..l.rows.len())
}

/// Inputs of a step that has only some of the rows.
fn some_inputs(f: Form, l: &Laid, rows: std::ops::Range<usize>) -> Vec<(&'static str, Array)> {
    let n = rows.len();
    let words = |of: &dyn Fn(&(usize, usize)) -> usize| -> Array {
        Array::u32(&[n], &l.rows[rows.clone()].iter().map(|r| of(r) as u32).collect::<Vec<_>>())
    };
    let part = |x: &[f32], h: usize| x[rows.start * h * f.d..rows.end * h * f.d].to_vec();
    let mut all = vec![
        ("places", Array::u32(&[n], &l.places[rows.clone()])),
        ("sequences", words(&|r| r.0)),
        ("positions", words(&|r| r.1)),
        ("tables", Array::u32(&[l.lengths.len(), l.per], &l.tables)),
        ("new k", Array::f32(&[n, f.g * f.d], &part(&l.k, f.g))),
        ("new v", Array::f32(&[n, f.g * f.d], &part(&l.v, f.g))),
        ("q", Array::f32(&[n, f.h, f.d], &part(&l.q, f.h))),
    ];
    if f.how.sinks {
        all.push(("sinks", Array::f32(&[f.h], &sinks(f.h))));
    }
    all
}

/// Each sequence by itself, in f64, by the op that knows no pages.
fn alone(f: Form, l: &Laid) -> Vec<f64> {
    let mut out = vec![0.0; l.q.len()];
    for (s, &n) in l.lengths.iter().enumerate().filter(|(_, n)| **n > 0) {
        let g = GraphBuilder::new();
        let [q, k, v] = [("q", f.h), ("k", f.g), ("v", f.g)].map(|(name, h)| g.input(name, DType::F32, [1, n, h, f.d]));
        let how = Attention { causal: Some(0.into()), ..f.how };
        let y = match f.how.sinks {
            true => q.attention_with_sinks(k, v, g.input("sinks", DType::F32, [f.h]), how),
            false => q.attention(k, v, None, how),
        };
        g.output("y", y);
        let mine: Vec<usize> = (0..n).map(|at| l.rows.iter().position(|r| *r == (s, at)).unwrap()).collect();
        let of = |x: &[f32], heads: usize| {
            let w = heads * f.d;
            let rows: Vec<f32> = mine.iter().flat_map(|i| x[i * w..(i + 1) * w].iter().copied()).collect();
            Array::f32(&[1, n, heads, f.d], &rows)
        };
        let mut inputs = vec![("q", of(&l.q, f.h)), ("k", of(&l.k, f.g)), ("v", of(&l.v, f.g))];
        if f.how.sinks {
            inputs.push(("sinks", Array::f32(&[f.h], &sinks(f.h))));
        }
        let mut oracle = Interpreter::<f64>::new(&g.finish().unwrap(), &HashMap::<String, Array>::new()).unwrap();
        let y = oracle.step_values(&Bindings::new(), &inputs).unwrap().remove(0).1;
        for (row, y) in mine.iter().zip(y.chunks_exact(f.h * f.d)) {
            out[row * f.h * f.d..(row + 1) * f.h * f.d].copy_from_slice(y);
        }
    }
    out
}

fn forms() -> Vec<(Form, Vec<usize>)> {
    let how = Attention::scaled(0.3);
    let form = |h, g, d, page, how| Form { h, g, d, page, how };
    vec![
        (form(4, 2, 16, 16, how), vec![40, 1, 17]),
        (form(9, 3, 64, 32, how), vec![5, 70, 33, 32]),
        (form(4, 4, 12, 5, how), vec![11, 23]),
        (form(6, 2, 32, 32, Attention { window: Some(20), ..how }), vec![300, 3, 65]),
        (form(4, 1, 16, 16, Attention { softcap: Some(0.8), sinks: true, ..how }), vec![19, 50, 2]),
    ]
}

fn hold(gpu: Option<&Arc<Gpu>>, what: &str) {
    for (i, (f, lengths)) in forms().into_iter().enumerate() {
        let l = laid(f, &lengths, 40 + i as u64);
        let (graph, want) = (paged_graph(f, &l), alone(f, &l));
        let none = HashMap::<String, Array>::new();
        let mut engine = block_on(Engine::load(gpu.cloned(), &graph, &none, &exact(DeviceChoice::Cpu))).unwrap();
        let rows = l.pages * f.page;
        for name in ["k", "v"] {
            let poison = Array::f32(&[rows, f.g * f.d], &vec![f32::NAN; rows * f.g * f.d]);
            engine.set_state(name, &poison).unwrap();
        }
        let y = block_on(engine.run(&Bindings::new(), &paged_inputs(f, &l), &["y"])).unwrap().remove(0).to_f32();
        for (j, (got, want)) in y.iter().zip(&want).enumerate() {
            let near = (*got as f64 - want).abs() <= 2e-5 + 2e-5 * want.abs();
            assert!(near, "{what} form {i} element {j}: {got}, alone it is {want}");
        }
    }
}

#[test]
fn rows_see_their_own_sequence_only_wherever_its_pages_lie() {
    hold(None, "cpu");
    for (f, lengths) in forms() {
        let l = laid(f, &lengths, 7);
        let mut oracle = Interpreter::<f64>::new(&paged_graph(f, &l), &HashMap::<String, Array>::new()).unwrap();
        let rows = l.pages * f.page;
        let poison = Array::f32(&[rows, f.g * f.d], &vec![f32::NAN; rows * f.g * f.d]);
        ["k", "v"].iter().for_each(|name| oracle.set_state(name, &poison));
        let got = oracle.step_values(&Bindings::new(), &paged_inputs(f, &l)).unwrap().remove(0).1;
        for (got, want) in got.iter().zip(alone(f, &l)) {
            assert!((got - want).abs() <= 1e-9, "the definition gives {got}, alone it is {want}");
        }
    }
}

/// What keys and values are where they are kept in a type.
fn rounded(l: &Laid, kv: DType) -> Laid {
    let kept = |x: &[f32]| warpweft::format::decode(kv, &warpweft::format::encode(kv, x));
    let (lengths, rows, tables, places) = (l.lengths.clone(), l.rows.clone(), l.tables.clone(), l.places.clone());
    Laid { k: kept(&l.k), v: kept(&l.v), q: l.q.clone(), lengths, rows, tables, places, ..*l }
}

#[test]
fn keys_and_values_in_less_than_f32_are_those_that_their_format_keeps() {
    let how = Attention::scaled(0.3);
    let form = |h, g, d, page, how| Form { h, g, d, page, how };
    let forms = [
        (form(9, 3, 64, 32, how), vec![5, 40, 33, 90]),
        (form(4, 1, 32, 16, Attention { softcap: Some(0.8), sinks: true, ..how }), vec![19, 50, 2]),
        (form(6, 2, 96, 32, Attention { window: Some(20), ..how }), vec![40, 65]),
    ];
    for (i, (f, lengths)) in forms.into_iter().enumerate() {
        for kv in [DType::F16, DType::Q8_0] {
            let l = laid(f, &lengths, 70 + i as u64);
            let want = alone(f, &rounded(&l, kv));
            let none = HashMap::<String, Array>::new();
            let graph = kept_graph(f, &l, l.rows.len(), kv);
            let mut oracle = Interpreter::<f64>::new(&graph, &none).unwrap();
            let by_definition = oracle.step_values(&Bindings::new(), &paged_inputs(f, &l)).unwrap().remove(0).1;
            let mut engine = block_on(Engine::load(None, &graph, &none, &exact(DeviceChoice::Cpu))).unwrap();
            let shape: Vec<usize> = if kv.is_quantised() { vec![f.g, f.d] } else { vec![f.g * f.d] };
            let shape = [&[l.pages * f.page], &shape[..]].concat();
            let count = shape.iter().product::<usize>();
            for name in ["k", "v"] {
                // A poison that any format keeps as what is no number.
                let bytes = warpweft::format::encode(kv, &vec![f32::NAN; count]);
                engine.set_state(name, &Array::new(kv, &shape, bytes).unwrap()).unwrap();
            }
            let y = block_on(engine.run(&Bindings::new(), &paged_inputs(f, &l), &["y"])).unwrap().remove(0).to_f32();
            for (j, (got, want)) in y.iter().zip(&want).enumerate() {
                let near = (*got as f64 - want).abs() <= 2e-5 + 2e-5 * want.abs();
                assert!(near, "{kv} form {i} element {j}: {got}, the reference gives {want}");
                assert!((by_definition[j] - want).abs() < 1e-9, "{kv} form {i} element {j}");
            }
            // What a state says that it holds is what was kept.
            let state = block_on(engine.state("k")).unwrap().to_f32();
            let (width, kept) = (f.g * f.d, rounded(&l, kv).k);
            for (row, place) in l.places.iter().enumerate() {
                let held = &state[*place as usize * width..][..width];
                assert_eq!(held, &kept[row * width..][..width], "{kv} form {i}: row {row} is not what was kept");
            }
        }
    }
}

/// Few rows over many keys are cut by chunks of keys, so that all threads have some.
#[test]
fn a_row_over_many_keys_has_the_same_bits_alone() {
    let how = Attention { sinks: true, ..Attention::scaled(0.3) };
    for (f, kv) in [
        (Form { h: 4, g: 2, d: 32, page: 32, how }, DType::F32),
        (Form { h: 6, g: 2, d: 64, page: 16, how: Attention { window: Some(300), ..how } }, DType::F16),
        (Form { h: 2, g: 2, d: 64, page: 32, how }, DType::Q8_0),
    ] {
        let l = laid(f, &[900, 3, 530], 5);
        let none = HashMap::<String, Array>::new();
        let graph = kept_graph(f, &l, l.rows.len(), kv);
        let mut whole = block_on(Engine::load(None, &graph, &none, &exact(DeviceChoice::Cpu))).unwrap();
        let all = block_on(whole.run(&Bindings::new(), &paged_inputs(f, &l), &["y"])).unwrap().remove(0).to_f32();
        for n in [1, 2, 3] {
            let graph = kept_graph(f, &l, n, kv);
            let mut few = block_on(Engine::load(None, &graph, &none, &exact(DeviceChoice::Cpu))).unwrap();
            for name in ["k", "v"] {
                few.set_state(name, &block_on(whole.state(name)).unwrap()).unwrap();
            }
            for first in (0..l.rows.len() - n).step_by(37) {
                let inputs = some_inputs(f, &l, first..first + n);
                let y = block_on(few.run(&Bindings::new(), &inputs, &["y"])).unwrap().remove(0).to_f32();
                assert_eq!(y, all[first * f.h * f.d..(first + n) * f.h * f.d], "{kv}: rows {first} to {}", first + n);
            }
        }
    }
}

#[test]
fn the_same_on_the_device() {
    let Found::Device(gpu) = device(None) else { return };
    hold(Some(&gpu), "device");
}

// ---- batches ----------------------------------------------------------------------------------------------------

fn tiny(context: usize) -> (Folder, PathBuf) {
    tiny_in(context, DType::F32)
}

fn tiny_in(context: usize, dtype: DType) -> (Folder, PathBuf) {
    let folder = Folder::new("step");
    let path = folder.file("tiny.gguf", Tiny { context, seed: 5, dtype, ..Tiny::default() }.gguf().bytes());
    (folder, path)
}

fn exact(device: DeviceChoice) -> Options {
    Options { precision: Precision::F32, ..options(device) }
}

fn options(device: DeviceChoice) -> Options {
    Options { device, ..Options::default() }
}

fn open(path: &PathBuf, device: DeviceChoice, how: &BatchOptions) -> Batch {
    block_on(Batch::open(path, &options(device), how, &mut |_| {})).unwrap()
}

/// Requests of mixed lengths, of which some begin alike.
fn requests(n: usize, seed: u64, long: usize) -> Vec<Request> {
    let mut r = Random::new(seed);
    let start: Vec<u32> = (0..100).map(|_| 1 + r.below(90) as u32).collect();
    let one = |i: usize| {
        let mut prompt: Vec<u32> = if i.is_multiple_of(3) { start[..70].to_vec() } else { vec![] };
        prompt.extend((0..1 + r.below(long)).map(|_| 1 + r.below(90) as u32));
        let sampling = match i % 2 {
            0 => Sampling { logit_bias: vec![(0, -100.0)], ..Sampling::greedy() },
            _ => Sampling { temperature: 1.0, seed: i as u64, ..Sampling::default() },
        };
        Request { prompt, sampling, max_tokens: Some(1 + r.below(40)), top: i % 3 }
    };
    (0..n).map(one).collect()
}

/// What is compared: with logits, so that a token that is right by luck is not.
type Told = Vec<(u32, String, u32)>;

fn told(t: &Token) -> (u32, String, u32) {
    (t.id, t.text.clone(), t.logprob.to_bits())
}

fn by_itself(model: &mut Generator, request: &Request) -> Told {
    let mut out = vec![];
    let mut keep = |t: &Token| {
        out.push(told(t));
        Ok(())
    };
    block_on(model.generate(request, &AtomicBool::new(false), &mut keep)).unwrap();
    out
}

/// Runs requests, one more wherever there is room and sometimes later; some are taken out before they end. Gives what each
/// got, and whether it was whole.
fn run(batch: &mut Batch, requests: &[Request], seed: u64, leave: usize) -> Vec<(Told, bool)> {
    let mut r = Random::new(seed);
    let mut out: Vec<(Told, bool)> = vec![(vec![], false); requests.len()];
    let (mut next, mut ids) = (0, HashMap::new());
    let never = AtomicBool::new(false);
    while next < requests.len() || !batch.is_empty() {
        while next < requests.len() && !batch.is_full() && (batch.is_empty() || r.below(3) > 0) {
            let id = batch.add(batch.begin(&requests[next]).unwrap()).unwrap();
            ids.insert(id, next);
            next += 1;
        }
        for Made { id, token, ended } in block_on(batch.step(&never)).unwrap() {
            let of = ids[&id];
            out[of].0.extend(token.as_ref().map(told));
            if let Some(ended) = ended {
                ended.unwrap();
                out[of].1 = true;
                ids.remove(&id);
            }
        }
        if leave > 0 && !ids.is_empty() && r.below(leave) == 0 {
            let mut all: Vec<u64> = ids.keys().copied().collect();
            all.sort_unstable();
            let id = all[r.below(all.len())];
            assert!(batch.remove(id).is_some());
            ids.remove(&id);
        }
    }
    assert_eq!(batch.pages().0, 0, "pages are left over");
    out
}

fn agrees(got: &[(Told, bool)], want: &[Told], what: &str) {
    for (i, ((got, whole), want)) in got.iter().zip(want).enumerate() {
        assert!(want.starts_with(got), "{what}: request {i} gives {got:?}, alone {want:?}");
        assert!(!whole || got.len() == want.len(), "{what}: request {i} ends after {} tokens", got.len());
    }
}

#[test]
fn whatever_shares_a_step_each_sequence_gets_the_bits_that_it_gets_alone() {
    // In f32, and with weights, activations, keys and values narrow.
    for (dtype, options) in [(DType::F32, exact(DeviceChoice::Cpu)), (DType::Q4_0, options(DeviceChoice::Cpu))] {
        let (_folder, path) = tiny_in(256, dtype);
        let all = requests(24, 3, 90);
        let mut model = block_on(Generator::open(&path, &options)).unwrap();
        let want: Vec<Told> = all.iter().map(|r| by_itself(&mut model, r)).collect();
        for sequences in [1, 2, 5, 16] {
            let how = BatchOptions { sequences, ..BatchOptions::default() };
            let mut batch = block_on(Batch::open(&path, &options, &how, &mut |_| {})).unwrap();
            let got = run(&mut batch, &all, sequences as u64, 0);
            agrees(&got, &want, &format!("{dtype}, {sequences} at once"));
            assert!(got.iter().all(|g| g.1) && batch.preempted() == 0);
            // Again, with prefixes that are there by now, and with some who leave.
            agrees(&run(&mut batch, &all, 50 + sequences as u64, 9), &want, &format!("{sequences} at once, again"));
        }
    }
}

#[test]
fn a_batch_keeps_what_a_conversation_keeps_and_says_where_it_cannot() {
    let (_folder, path) = tiny(256);
    let all = requests(12, 4, 60);
    let with = |kv| Options { kv: Some(kv), ..exact(DeviceChoice::Cpu) };
    let how = BatchOptions { sequences: 4, ..BatchOptions::default() };
    let narrow = block_on(Generator::open(&path, &with(DType::Q8_0))).err().map(|e| e.to_string());
    let heads = narrow.expect("heads of 16 are no whole blocks of 32");
    assert!(heads.contains("rows of 16 are no whole blocks of 32, in which q8_0 is kept"), "{heads}");
    let mut model = block_on(Generator::open(&path, &with(DType::F16))).unwrap();
    let want: Vec<Told> = all.iter().map(|r| by_itself(&mut model, r)).collect();
    let mut batch = block_on(Batch::open(&path, &with(DType::F16), &how, &mut |_| {})).unwrap();
    agrees(&run(&mut batch, &all, 1, 0), &want, "in f16");
    let other = block_on(Generator::open(&path, &with(DType::Q4_0))).err().unwrap();
    assert_eq!(other.to_string(), "keys and values cannot be kept in q4_0: give one of f32, f16, q8_0");
    if let Found::Device(gpu) = device(None) {
        let options = Options { kv: Some(DType::F16), ..options(DeviceChoice::Open(gpu)) };
        let refused = block_on(Batch::open(&path, &options, &how, &mut |_| {})).err().unwrap();
        assert_eq!(refused.to_string(), "adapters keep keys and values in f32: f16 is for the CPU (--device cpu)");
    }
}

#[test]
fn where_memory_is_short_the_youngest_waits_and_goes_on_with_the_same_tokens() {
    let (_folder, path) = tiny(256);
    let all = requests(16, 8, 60);
    let mut model = block_on(Generator::open(&path, &options(DeviceChoice::Cpu))).unwrap();
    let want: Vec<Told> = all.iter().map(|r| by_itself(&mut model, r)).collect();
    let per_token = model.info().state_bytes_per_token;
    // One context and a little: of eight sequences most must wait, and some give way.
    let how = BatchOptions { sequences: 8, kv_bytes: Some(per_token * (256 + 96)), ..BatchOptions::default() };
    let mut batch = open(&path, DeviceChoice::Cpu, &how);
    assert_eq!(batch.pages(), (0, 11));
    let got = run(&mut batch, &all, 1, 0);
    agrees(&got, &want, "in little memory");
    assert!(got.iter().all(|g| g.1));
    assert!(batch.preempted() > 0, "nobody had to give way");
    agrees(&run(&mut batch, &all, 2, 5), &want, "in little memory, with some who leave");

    let less = BatchOptions { kv_bytes: Some(per_token * 200), ..how };
    let refused = block_on(Batch::open(&path, &options(DeviceChoice::Cpu), &less, &mut |_| {})).err().unwrap();
    assert_eq!(
        refused.to_string(),
        format!(
            "keys and values of a context of 256 tokens take {} bytes, there is room for {}: give more with --kv-bytes, or a smaller --ctx",
            256 * per_token,
            192 * per_token
        )
    );
}

#[test]
fn a_batch_says_what_it_found_and_refuses_one_too_many() {
    let (_folder, path) = tiny(256);
    let mut batch = open(&path, DeviceChoice::Cpu, &BatchOptions { sequences: 2, ..BatchOptions::default() });
    let prompt: Vec<u32> = (0..100).map(|i| 1 + i % 50).collect();
    let request = Request { prompt, sampling: Sampling::greedy(), max_tokens: Some(1), top: 0 };
    let never = AtomicBool::new(false);
    let mut cached = vec![];
    for _ in 0..2 {
        let generation = batch.begin(&request).unwrap();
        batch.add(generation).unwrap();
        while !batch.is_empty() {
            let made = block_on(batch.step(&never)).unwrap();
            cached.extend(made.into_iter().filter_map(|m| m.ended).map(|f| f.unwrap().cached_tokens));
        }
    }
    // Whole pages of 32 tokens.
    assert_eq!(cached, [0, 96]);
    for _ in 0..2 {
        let generation = batch.begin(&request).unwrap();
        batch.add(generation).unwrap();
    }
    let third = batch.begin(&request).unwrap();
    assert_eq!(batch.add(third), Err(Error::Busy { waiting: 2 }));
    // Nothing is asked of it: it ends without a step.
    let all: Vec<u64> = batch.take_all().into_iter().map(|(id, _)| id).collect();
    assert_eq!(all.len(), 2);
    let none = batch.begin(&Request { max_tokens: Some(0), ..request.clone() }).unwrap();
    batch.add(none).unwrap();
    let made = block_on(batch.step(&never)).unwrap();
    assert!(made.len() == 1 && made[0].token.is_none() && made[0].ended.as_ref().unwrap().is_ok());
    // A cancelled step leaves all as it was.
    let generation = batch.begin(&request).unwrap();
    batch.add(generation).unwrap();
    let cancelled = block_on(batch.step(&AtomicBool::new(true)));
    assert!(matches!(cancelled, Err(Error::Cancelled)), "the step was not cancelled");
    let mut ids = vec![];
    while !batch.is_empty() {
        ids.extend(block_on(batch.step(&never)).unwrap().into_iter().filter_map(|m| m.token).map(|t| t.id));
    }
    assert_eq!(ids.len(), 1);
}

#[test]
fn on_an_adapter_sequences_come_and_go_without_new_pipelines_and_with_the_tokens_of_each_alone() {
    let Some(index) = needed_adapter() else { return };
    let gpu = Arc::new(block_on(Gpu::open(index)).unwrap());
    let (_folder, path) = tiny(128);
    let all = requests(8, 21, 20);
    let how = BatchOptions { sequences: 4, deterministic: true, ..BatchOptions::default() };
    let mut batch = open(&path, DeviceChoice::Open(gpu.clone()), &how);
    let want: Vec<Told> = all.iter().map(|r| run(&mut batch, std::slice::from_ref(r), 0, 0).remove(0).0).collect();
    let before = gpu.counts();
    let got = run(&mut batch, &all, 3, 0);
    let after = gpu.counts();
    agrees(&got, &want, "together");
    assert!(got.iter().all(|g| g.1));
    assert_eq!((before.pipelines, before.bind_groups), (after.pipelines, after.bind_groups));
    // With kernels for few rows, too: tokens then may differ in their last digits only.
    let mut few = open(&path, DeviceChoice::Open(gpu), &BatchOptions { deterministic: false, ..how });
    for ((got, _), want) in run(&mut few, &all, 5, 0).iter().zip(&want) {
        for (a, b) in got.iter().zip(want) {
            let (x, y) = (f32::from_bits(a.2), f32::from_bits(b.2));
            assert!(a.0 == b.0 && (x - y).abs() < 1e-3, "{a:?} and {b:?}");
        }
    }
}

#[test]
fn a_step_over_pages_is_planned_once() {
    let (_folder, path) = tiny(64);
    let model = warpweft::model::Model::new(warpweft::model::ModelSource::open(path).unwrap()).unwrap();
    let (rows, outputs) = (Var::new("rows", 16).into(), Var::new("outputs", 4).into());
    let shape =
        warpweft::model::PagedShape { rows, outputs, sequences: 4, context: 64, page: 32, pages: 6, kv: DType::F32 };
    let graph = model.paged_graph(&shape).unwrap();
    let caps = warpweft::base::Caps { kind: warpweft::base::AdapterKind::Discrete, ..warpweft::base::Caps::FLOOR };
    let plan = warpweft::plan::plan(&graph, &caps, &warpweft::plan::Options::for_caps(&caps)).unwrap();
    // Keys, values and queries of a layer are written by one dispatch.
    let scattered = plan.dispatches.iter().filter(|d| d.ops.contains(&"append")).count();
    assert_eq!(scattered, 2, "{plan}");
}
