//! A team shares the rows of weights: what it computes is, bit for bit, what one thread computes.

mod common;

use common::tiny::Tiny;
use common::{Later, values};
use pollster::block_on;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use warpweft::base::{Array, Bindings, DType, DeviceFault, Error, Result, Var};
use warpweft::format;
use warpweft::graph::GraphBuilder;
use warpweft::reference::{Interpreter, MOST_MADE, MOST_SHARED, Member, Team, WORDS, pays};
use warpweft::session::{DeviceChoice, Loading, Opened, Options, Request};
use warpweft::text::Sampling;

type Order = ([u32; WORDS], Arc<Vec<u8>>);

/// Members in threads of their own; each knows nothing but what it was sent.
#[derive(Debug)]
struct Threads {
    lines: Vec<Mutex<(Sender<Order>, Receiver<Result<Vec<f32>>>)>>,
    shared: Mutex<Arc<Vec<u8>>>,
    orders: AtomicUsize,
}

impl Threads {
    /// `most`: orders after which a member ends without a word.
    fn of(threads: usize, most: usize) -> Arc<Threads> {
        let line = |_| {
            let (orders, inbox) = channel::<Order>();
            let (outbox, answers) = channel();
            std::thread::spawn(move || {
                let mut member = Member::default();
                for (words, shared) in inbox.iter().take(most) {
                    let mut made = vec![];
                    let done = member.obey(&words, &shared, &mut made).map(|()| made);
                    if outbox.send(done).is_err() {
                        return;
                    }
                }
            });
            Mutex::new((orders, answers))
        };
        Arc::new(Threads {
            lines: (1..threads).map(line).collect(),
            shared: Mutex::default(),
            orders: AtomicUsize::new(0),
        })
    }
}

fn gone(member: usize) -> Error {
    Error::device(DeviceFault::Lost, "the team", format!("member {member} has ended"))
}

impl Team for Threads {
    fn threads(&self) -> usize {
        self.lines.len() + 1
    }
    fn share(&self, bytes: &[u8]) -> Result<()> {
        assert!(bytes.len() <= MOST_SHARED * 4, "{} bytes are shared", bytes.len());
        *self.shared.lock().unwrap() = Arc::new(bytes.to_vec());
        Ok(())
    }
    fn order(&self, member: usize, words: [u32; WORDS]) -> Result<()> {
        self.orders.fetch_add(1, Ordering::Relaxed);
        let shared = self.shared.lock().unwrap().clone();
        self.lines[member - 1].lock().unwrap().0.send((words, shared)).map_err(|_| gone(member))
    }
    fn done(&self, member: usize, made: &mut [f32]) -> Result<()> {
        let answer = self.lines[member - 1].lock().unwrap().1.recv().map_err(|_| gone(member))??;
        assert!(answer.len() == made.len() && made.len() <= MOST_MADE, "{} floats for {}", answer.len(), made.len());
        made.copy_from_slice(&answer);
        Ok(())
    }
}

/// Rows of a table by their ids, times the table's own transpose and then another weight's: the bits of what comes out.
fn products(dtype: DType, [n, k]: [usize; 2], m: usize, team: Option<Arc<dyn Team>>) -> Vec<u32> {
    let weights: HashMap<String, Array> = [("a", [n, k]), ("b", [70, n])]
        .map(|(name, shape)| {
            let bytes = format::encode(dtype, &values(shape[0] * shape[1]));
            (name.to_string(), Array::new(dtype, &shape, bytes).unwrap())
        })
        .into();
    let g = GraphBuilder::new();
    let ids = g.input("ids", DType::U32, [Var::new("m", 5000)]);
    let a = g.weight("a", dtype, [n, k]);
    let x = a.gather(ids).matmul_t(a);
    g.output("x", x);
    g.output("y", x.matmul_t(g.weight("b", dtype, [70, n])));
    let mut cpu = Interpreter::<f32>::waiting(&g.finish().unwrap(), &Later(&weights), team).unwrap();
    for (name, array) in &weights {
        // Pieces that end within rows, and within panels.
        for (i, piece) in array.bytes.chunks(37 * dtype.block_bytes()).enumerate() {
            cpu.feed(name, i as u64 * 37, piece).unwrap();
        }
    }
    cpu.arrived().unwrap();
    let ids: Vec<u32> = (0..m as u32).map(|i| i * 31 % n as u32).collect();
    let made = cpu.step(&Bindings::new().with("m", m as u64), &[("ids", Array::u32(&[m], &ids))]).unwrap();
    made.iter().flat_map(|o| o.1.to_f32()).map(f32::to_bits).collect()
}

#[test]
fn every_output_of_a_team_has_the_bits_that_one_thread_gives_it() {
    for dtype in DType::weights() {
        // Fewer panels than threads, rows that fill no panel, and more rows of x than are shown at once.
        for (shape, m) in
            [([96, 32], 1), ([96, 32], 4), ([416, 64], 5), ([416, 64], 70), ([32, 32], 4200), ([8192, 32], 70)]
        {
            // The largest once, and not with blocks that make it larger.
            if shape[0] == 8192 && dtype != DType::Q4_1 || m > 1000 && dtype.block() > 32 {
                continue;
            }
            let shape = shape.map(|n: usize| n.next_multiple_of(dtype.block()));
            let alone = products(dtype, shape, m, None);
            assert!(alone.iter().any(|x| f32::from_bits(*x) != 0.0));
            for threads in [2, 3, 8] {
                let team = Threads::of(threads, usize::MAX);
                assert!(
                    products(dtype, shape, m, Some(team.clone())) == alone,
                    "{dtype} {shape:?} for {m} rows with {threads} threads"
                );
                assert!(shape[0] < 64 || team.orders.load(Ordering::Relaxed) > 4, "members have work");
            }
        }
    }
}

/// The greedy tokens of a tiny model that arrives, with the bits of their probabilities.
fn answer(file: &[u8], team: Option<Arc<dyn Team>>) -> Result<Vec<(u32, u32)>> {
    let options = Options { device: DeviceChoice::Cpu, team, ..Options::default() };
    let mut loading = Loading::new("m.gguf", Some(file.len() as u64), HashMap::new(), options);
    block_on(async {
        for piece in file.chunks(9_973) {
            loading.push(piece).await?;
        }
        let Opened::Generator(mut model) = loading.finish().await? else { panic!("a llama generates") };
        let request = Request {
            prompt: model.raw_prompt("over and under the warp")?,
            sampling: Sampling::greedy(),
            max_tokens: Some(12),
            top: 0,
        };
        let mut out = vec![];
        model
            .generate(&request, &AtomicBool::new(false), &mut |t| {
                out.push((t.id, t.logprob.to_bits()));
                Ok(())
            })
            .await?;
        Ok(out)
    })
}

#[test]
fn a_model_says_the_same_with_a_team_and_a_member_that_ends_is_an_error() {
    for dtype in [DType::F32, DType::Q8_0] {
        let file = Tiny { dtype, width: 128, ffn: 192, ..Tiny::default() }.gguf().bytes();
        // Weights that a team shares are computed with by the interpreter, with one thread too.
        let alone = answer(&file, Some(Threads::of(1, usize::MAX))).unwrap();
        assert_eq!(alone.len(), 12);
        for threads in [2, 3] {
            let team = Threads::of(threads, usize::MAX);
            assert_eq!(answer(&file, Some(team.clone())).unwrap(), alone, "{dtype} with {threads} threads");
            assert!(team.orders.load(Ordering::Relaxed) > 100, "members have work");
        }
        // While it opens, and while it answers.
        for most in [0, 7, 120] {
            let e = answer(&file, Some(Threads::of(2, most))).unwrap_err();
            assert!(matches!(&e, Error::Device { fault: DeviceFault::Lost, .. }), "{e}");
        }
    }
}

#[test]
fn a_trial_finds_out_whether_a_team_pays() {
    // Members that take their time: nothing is gained.
    #[derive(Debug)]
    struct Slow(Arc<Threads>);
    impl Team for Slow {
        fn threads(&self) -> usize {
            self.0.threads()
        }
        fn share(&self, bytes: &[u8]) -> Result<()> {
            self.0.share(bytes)
        }
        fn order(&self, member: usize, words: [u32; WORDS]) -> Result<()> {
            self.0.order(member, words)
        }
        fn done(&self, member: usize, made: &mut [f32]) -> Result<()> {
            std::thread::sleep(std::time::Duration::from_millis(3));
            self.0.done(member, made)
        }
    }
    let slow: Arc<dyn Team> = Arc::new(Slow(Threads::of(2, usize::MAX)));
    assert!(!pays(&slow).unwrap());
    let gone: Arc<dyn Team> = Threads::of(2, 5);
    assert!(pays(&gone).is_err());
    // A team does its work after the trial as before it.
    let team = Threads::of(3, usize::MAX);
    pays(&(team.clone() as Arc<dyn Team>)).unwrap();
    assert!(products(DType::Q4_0, [96, 32], 4, Some(team)) == products(DType::Q4_0, [96, 32], 4, None));
}

#[test]
fn a_member_refuses_orders_that_do_not_fit_what_it_holds() {
    let mut member = Member::default();
    let mut made = vec![];
    let f32s = DType::ALL.iter().position(|t| *t == DType::F32).unwrap() as u32;
    member.obey(&[1, 0, f32s, 2, 3], &[], &mut made).unwrap();
    member.obey(&[2, 0, 0, 0, 0], &[0; 24], &mut made).unwrap();
    let x = [0; 12];
    let orders: [(&[u32], &[u8]); 9] = [
        (&[2, 0, 3, 0, 0], &[0; 24]),
        (&[3, 0, 1, 0, 3], &x),
        (&[3, 0, 2, 0, 2], &x),
        (&[3, 1, 1, 0, 2], &x),
        (&[4, 0, 2, 0, 0], &[]),
        (&[9, 0, 0, 0, 0], &[]),
        (&[3, 0], &x),
        (&[1, 1, 99, 1, 1], &[]),
        (&[3, 0, 1, 2, 1], &x),
    ];
    for (words, shared) in orders {
        assert!(member.obey(words, shared, &mut made).is_err(), "{words:?}");
    }
    let short = member.obey(&[1, 2, f32s, u32::MAX, u32::MAX], &[], &mut made).unwrap_err();
    assert!(matches!(&short, Error::Device { fault: DeviceFault::OutOfMemory, .. }), "{short}");
    member.obey(&[3, 0, 1, 0, 2], &x, &mut made).unwrap();
    assert_eq!(made, [0.0, 0.0]);
}
