//! ONNX's own node suite: every case that tensors can say is built as a graph, run, and compared with what the suite expects.
//!
//! `scripts/onnx.sh` writes the suite's files and sets `WARPWEFT_ONNX` to their folder; without it there is nothing to run.
//! Ops in files beside this one are written in tensors alone: a case that needs what is not there is counted as not written.

#[path = "onnx/attention.rs"]
mod attention;
#[path = "onnx/math.rs"]
mod math;
#[path = "onnx/moves.rs"]
mod moves;
#[path = "onnx/nets.rs"]
mod nets;
#[path = "onnx/proto.rs"]
mod proto;
#[path = "onnx/resize.rs"]
mod resize;

use pollster::block_on;
use proto::{Host, Model, Node, kind};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use warpweft::{Array, Bindings, DType, Device, Engine, GraphBuilder, Tensor};

/// Cases that pass; a change may only add to them.
const PASSING: usize = 1415;

/// An axis counted from the end where it is negative.
pub fn at(axis: i64, rank: usize) -> usize {
    if axis < 0 { (axis + rank as i64).max(0) as usize } else { axis as usize }
}

/// The engine's type for one of ONNX's: 64 bits become 32, small integers are computed as 32 bits and wrapped.
pub fn dtype(of: u64) -> Option<DType> {
    Some(match of {
        kind::F32 | kind::F64 | kind::BF16 => DType::F32,
        kind::F16 => DType::F16,
        kind::I8 | kind::I16 | kind::I32 | kind::I64 | kind::U8 | kind::U16 => DType::I32,
        kind::U32 | kind::U64 => DType::U32,
        kind::BOOL => DType::Bool,
        _ => return None,
    })
}

fn array(h: &Host) -> Result<Array, String> {
    let to = dtype(h.kind).ok_or_else(|| format!("type {}", h.kind))?;
    let within = |low: f64, high: f64| match h.data.iter().find(|v| **v < low || **v > high) {
        Some(v) => Err(format!("{v} is beyond 32 bits")),
        None => Ok(()),
    };
    let made = match to {
        DType::F16 => Array::of(&h.shape, &h.data.iter().map(|v| half::f16::from_f64(*v)).collect::<Vec<_>>()),
        DType::I32 => {
            within(i32::MIN as f64, i32::MAX as f64)?;
            Array::of(&h.shape, &h.data.iter().map(|v| *v as i32).collect::<Vec<_>>())
        }
        DType::U32 => {
            within(0.0, u32::MAX as f64)?;
            Array::of(&h.shape, &h.data.iter().map(|v| *v as u32).collect::<Vec<_>>())
        }
        DType::Bool => Array::of(&h.shape, &h.data.iter().map(|v| *v != 0.0).collect::<Vec<_>>()),
        _ => Array::of(&h.shape, &h.data.iter().map(|v| *v as f32).collect::<Vec<_>>()),
    };
    made.map_err(|e| e.to_string())
}

/// A result as one of ONNX's types: small integers wrap, halves are rounded.
fn host(a: &Array, of: u64) -> Host {
    let one = |v: f64| match of {
        kind::U8 => v as i64 as u8 as f64,
        kind::I8 => v as i64 as i8 as f64,
        kind::U16 => v as i64 as u16 as f64,
        kind::I16 => v as i64 as i16 as f64,
        kind::F16 => half::f16::from_f64(v).to_f64(),
        kind::BF16 => half::bf16::from_f64(v).to_f64(),
        _ => v,
    };
    Host { kind: of, shape: a.shape.clone(), data: a.to_f64().into_iter().map(one).collect() }
}

/// A node about to be built, with its operands as tensors and as numbers.
pub struct Call<'g, 'a> {
    pub g: &'g GraphBuilder,
    pub node: &'a Node,
    pub version: u64,
    tensors: Vec<Option<Tensor<'g>>>,
    hosts: Vec<Option<&'a Host>>,
    /// Literals that become inputs.
    given: &'a RefCell<Vec<(String, Array)>>,
}

impl<'g> Call<'g, '_> {
    pub fn has(&self, i: usize) -> bool {
        self.hosts.get(i).is_some_and(|h| h.is_some())
    }
    pub fn host(&self, i: usize) -> Result<&Host, String> {
        self.hosts.get(i).copied().flatten().ok_or_else(|| format!("operand {i} is missing"))
    }
    pub fn kind(&self, i: usize) -> u64 {
        self.host(i).map_or(kind::F32, |h| h.kind)
    }
    pub fn x(&self, i: usize) -> Result<Tensor<'g>, String> {
        self.tensors.get(i).copied().flatten().ok_or_else(|| format!("operand {i} is missing"))
    }
    /// Numbers as an input of the graph.
    pub fn literal(&self, h: Host) -> Result<Tensor<'g>, String> {
        let array = array(&h)?;
        let name = format!("literal {}", self.given.borrow().len());
        let x = self.g.input(&name, array.dtype, &h.shape[..]);
        self.given.borrow_mut().push((name, array));
        Ok(x)
    }
}

/// Ops whose result is known without computing.
fn known(node: &Node, hosts: &[Option<&Host>]) -> Option<Host> {
    let first = hosts.first().copied().flatten();
    Some(match &*node.op {
        "Shape" => {
            let shape = &first?.shape;
            let place = |name, default: i64| at(node.int(name, default), shape.len()).min(shape.len());
            let (from, to) = (place("start", 0), place("end", shape.len() as i64));
            let dims: Vec<f64> = shape[from..to.max(from)].iter().map(|d| *d as f64).collect();
            Host::new(kind::I64, &[dims.len()], dims)
        }
        "Size" => Host::new(kind::I64, &[], vec![first?.data.len() as f64]),
        "Constant" => {
            let a = node.attributes.first()?;
            match &*a.name {
                "value" => a.tensor.clone()?,
                "value_float" => Host::new(kind::F32, &[], vec![a.float as f64]),
                "value_int" => Host::new(kind::I64, &[], vec![a.int as f64]),
                "value_ints" => Host::new(kind::I64, &[a.ints.len()], a.ints.iter().map(|i| *i as f64).collect()),
                "value_floats" => Host::new(kind::F32, &[a.floats.len()], a.floats.iter().map(|f| *f as f64).collect()),
                _ => return None,
            }
        }
        "ConstantOfShape" => {
            let shape: Vec<usize> = first?.data.iter().map(|d| *d as usize).collect();
            let value = node.attribute("value").and_then(|a| a.tensor.clone());
            let (of, v) = value.map_or((kind::F32, 0.0), |h| (h.kind, h.data[0]));
            Host::new(of, &shape, vec![v; shape.iter().product()])
        }
        "Range" => {
            let [from, to, step] = [0, 1, 2].map(|i| hosts.get(i).copied().flatten().map_or(f64::NAN, |h| h.data[0]));
            let n = ((to - from) / step).ceil().max(0.0) as usize;
            Host::new(first?.kind, &[n], (0..n).map(|i| from + i as f64 * step).collect())
        }
        _ => return None,
    })
}

/// Computes a node by a graph of its own.
fn compute(node: &Node, version: u64, hosts: &[Option<&Host>]) -> Result<Vec<Host>, String> {
    if let Some(known) = known(node, hosts) {
        return Ok(vec![known]);
    }
    let given = RefCell::new(vec![]);
    let g = GraphBuilder::new();
    let mut tensors = vec![];
    for (i, h) in hosts.iter().enumerate() {
        // What is text or the like may be read as numbers only.
        let input = h.map(|h| array(h).map(|a| (g.input(&format!("x{i}"), a.dtype, &h.shape[..]), a))).transpose()?;
        tensors.push(input.as_ref().map(|(x, _)| *x));
        if let Some((_, a)) = input {
            given.borrow_mut().push((format!("x{i}"), a));
        }
    }
    let call = Call { g: &g, node, version, tensors, hosts: hosts.to_vec(), given: &given };
    let made = math::op(&call).or_else(|| moves::op(&call)).or_else(|| nets::op(&call));
    let made = made.unwrap_or_else(|| Err(format!("no {}", node.op)))?;
    let kinds: Vec<u64> = made.iter().map(|m| m.1).collect();
    let names: Vec<String> = (0..made.len()).map(|i| format!("y{i}")).collect();
    names.iter().zip(&made).for_each(|(name, (x, _))| g.output(name, *x));
    drop(made);
    drop(call);
    let graph = g.finish().map_err(|e| e.to_string())?;
    let given = given.into_inner();
    let inputs: Vec<(&str, Array)> = given.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
    let outputs: Vec<&str> = names.iter().map(String::as_str).collect();
    let run = async {
        let mut engine = Engine::open(&Device::Cpu, &graph, &HashMap::<String, Array>::new()).await?;
        engine.run(&Bindings::new(), &inputs, &outputs).await
    };
    let results = block_on(run).map_err(|e| e.to_string())?;
    Ok(results.iter().zip(kinds).map(|(a, k)| host(a, k)).collect())
}

/// What became of a case.
enum Outcome {
    Passed,
    /// Something in it is not known here.
    Unwritten(String),
    Wrong(String),
}

fn close(got: &Host, want: &Host) -> Result<(), String> {
    if got.shape != want.shape {
        return Err(format!("has the shape {:?}, {:?} is right", got.shape, want.shape));
    }
    if got.kind != want.kind {
        return Err(format!("is of type {}, {} is right", got.kind, want.kind));
    }
    let rel = match want.kind {
        kind::F16 => 2e-3,
        kind::BF16 => 2e-2,
        _ => 1e-3,
    };
    let exact = !kind::is_float(want.kind);
    for (i, (g, w)) in got.data.iter().zip(&want.data).enumerate() {
        let near = !exact && (g - w).abs() <= 1e-6 + rel * w.abs();
        if !(g == w || (g.is_nan() && w.is_nan()) || near) {
            return Err(format!("element {i} is {g}, {w} is right"));
        }
    }
    Ok(())
}

fn data(folder: &Path, what: &str) -> Vec<Option<Host>> {
    let read = |i: usize| fs::read(folder.join(format!("{what}_{i}.pb"))).ok();
    (0..).map_while(read).map(|bytes| proto::tensor(&bytes).1).collect()
}

fn case(folder: &Path) -> Outcome {
    let model: Model = proto::model(&fs::read(folder.join("model.onnx")).unwrap());
    let set = folder.join("test_data_set_0");
    let (inputs, wants) = (data(&set, "input"), data(&set, "output"));
    let mut values: HashMap<&str, Option<Host>> = HashMap::new();
    values.extend(model.constants.iter().map(|(n, h)| (n.as_str(), h.clone())));
    values.extend(model.inputs.iter().map(String::as_str).zip(inputs));
    for node in &model.nodes {
        let mut hosts = vec![];
        for name in &node.inputs {
            match values.get(name.as_str()) {
                _ if name.is_empty() => hosts.push(None),
                Some(Some(h)) => hosts.push(Some(h)),
                _ => return Outcome::Unwritten("an operand is no tensor of numbers".into()),
            }
        }
        if !node.domain.is_empty() && node.domain != "ai.onnx" {
            return Outcome::Unwritten(format!("the domain {}", node.domain));
        }
        let made = match compute(node, model.version, &hosts) {
            Ok(made) => made,
            Err(e) => return Outcome::Unwritten(e),
        };
        drop(hosts);
        values.extend(node.outputs.iter().map(String::as_str).zip(made.into_iter().map(Some)));
    }
    for (name, want) in model.outputs.iter().zip(wants) {
        let (Some(Some(got)), Some(want)) = (values.get(name.as_str()), want) else {
            return Outcome::Unwritten(format!("the output {name}"));
        };
        if let Err(e) = close(got, &want) {
            return Outcome::Wrong(format!("{name} {e}"));
        }
    }
    Outcome::Passed
}

#[test]
fn the_node_suite_of_onnx() {
    let Some(folder) = std::env::var_os("WARPWEFT_ONNX").map(PathBuf::from) else {
        eprintln!("WARPWEFT_ONNX names no folder: scripts/onnx.sh makes one");
        return;
    };
    let mut cases: Vec<PathBuf> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    cases.retain(|p| p.join("model.onnx").exists());
    cases.sort();
    let (mut passed, mut single, mut why, mut wrong) = (0, 0, BTreeMap::<String, usize>::new(), vec![]);
    let mut unwritten = String::new();
    for path in &cases {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match case(path) {
            Outcome::Passed => {
                passed += 1;
                single += !name.contains("_expanded") as usize;
            }
            Outcome::Unwritten(what) => {
                unwritten += &format!("{name}: {what}\n");
                *why.entry(what).or_default() += 1;
            }
            Outcome::Wrong(what) => wrong.push(format!("{name}: {what}")),
        }
    }
    fs::write(folder.join("unwritten.txt"), unwritten).unwrap();
    let mut why: Vec<_> = why.into_iter().collect();
    why.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    why.iter().take(40).for_each(|(what, n)| println!("{n:5} not written: {what}"));
    wrong.iter().for_each(|w| println!("wrong: {w}"));
    println!("{passed} of {} cases pass, {single} of them of one op; {} are wrong", cases.len(), wrong.len());
    assert!(wrong.is_empty(), "{} cases are computed wrongly", wrong.len());
    assert!(passed >= PASSING, "{passed} cases pass, {PASSING} did");
}
