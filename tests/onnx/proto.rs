//! As much of protobuf and of ONNX's messages as single-node models need.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding>; messages: `onnx.proto` of the ONNX project.

use half::{bf16, f16};

/// A field's number and what it holds.
pub enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; what is cut off ends them.
pub fn fields(mut data: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut out = vec![];
    while let Some(tag) = varint(&mut data) {
        let field = match tag & 7 {
            0 => varint(&mut data).map(Field::Number),
            1 => take(&mut data, 8).map(|b| Field::Number(u64::from_le_bytes(b.try_into().unwrap()))),
            2 => varint(&mut data).and_then(|n| take(&mut data, n as usize)).map(Field::Bytes),
            5 => take(&mut data, 4).map(|b| Field::Number(u32::from_le_bytes(b.try_into().unwrap()) as u64)),
            _ => None,
        };
        let Some(field) = field else { break };
        out.push((tag >> 3, field));
    }
    out
}

fn take<'a>(data: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = data.split_at_checked(n)?;
    *data = rest;
    Some(head)
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut out = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = take(data, 1)?[0];
        out |= ((byte & 127) as u64) << shift;
        if byte < 128 {
            return Some(out);
        }
    }
    None
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// ONNX's numbers for element types.
pub mod kind {
    pub const F32: u64 = 1;
    pub const U8: u64 = 2;
    pub const I8: u64 = 3;
    pub const U16: u64 = 4;
    pub const I16: u64 = 5;
    pub const I32: u64 = 6;
    pub const I64: u64 = 7;
    pub const BOOL: u64 = 9;
    pub const F16: u64 = 10;
    pub const F64: u64 = 11;
    pub const U32: u64 = 12;
    pub const U64: u64 = 13;
    pub const BF16: u64 = 16;
    pub fn is_float(k: u64) -> bool {
        matches!(k, F32 | F16 | F64 | BF16)
    }
}

/// A tensor on the host. Integers beyond 53 bits do not occur where they matter.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    pub kind: u64,
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

impl Host {
    pub fn new(kind: u64, shape: &[usize], data: Vec<f64>) -> Host {
        Host { kind, shape: shape.to_vec(), data }
    }
    pub fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|x| *x as i64).collect()
    }
}

/// `TensorProto`; none where its elements are of a type that is not known here.
pub fn tensor(data: &[u8]) -> (String, Option<Host>) {
    let (mut name, mut kind, mut shape, mut raw, mut listed) = (String::new(), 0, vec![], None, vec![]);
    for (at, field) in fields(data) {
        match (at, field) {
            (1, Field::Number(n)) => shape.push(n as usize),
            (1, Field::Bytes(b)) => shape.extend(packed(b).iter().map(|n| *n as usize)),
            (2, Field::Number(n)) => kind = n,
            (8, Field::Bytes(b)) => name = text(b),
            (9, Field::Bytes(b)) => raw = Some(b),
            (4, Field::Bytes(b)) => {
                listed = b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()) as f64).collect()
            }
            (4, Field::Number(n)) => listed.push(f32::from_bits(n as u32) as f64),
            (10, Field::Bytes(b)) => {
                listed = b.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
            }
            (10, Field::Number(n)) => listed.push(f64::from_bits(n)),
            (5 | 7 | 11, Field::Bytes(b)) => listed = packed(b).iter().map(|n| of_bits(kind, *n)).collect(),
            (5 | 7 | 11, Field::Number(n)) => listed.push(of_bits(kind, n)),
            _ => {}
        }
    }
    let data = match raw {
        Some(raw) => elements(kind, raw),
        None if size(kind).is_some() => Some(listed),
        None => None,
    };
    let host = data.filter(|d| d.len() == shape.iter().product::<usize>()).map(|data| Host { kind, shape, data });
    (name, host)
}

fn packed(mut b: &[u8]) -> Vec<u64> {
    std::iter::from_fn(|| varint(&mut b)).collect()
}

/// A number of `int32_data` and its like.
fn of_bits(kind: u64, n: u64) -> f64 {
    match kind {
        kind::F16 => f16::from_bits(n as u16).to_f64(),
        kind::BF16 => bf16::from_bits(n as u16).to_f64(),
        kind::U64 | kind::U32 => n as f64,
        _ => n as i64 as f64,
    }
}

fn size(kind: u64) -> Option<usize> {
    Some(match kind {
        kind::F32 | kind::I32 | kind::U32 => 4,
        kind::I64 | kind::F64 | kind::U64 => 8,
        kind::U8 | kind::I8 | kind::BOOL => 1,
        kind::U16 | kind::I16 | kind::F16 | kind::BF16 => 2,
        _ => return None,
    })
}

fn elements(kind: u64, raw: &[u8]) -> Option<Vec<f64>> {
    let n = size(kind)?;
    let one = |b: &[u8]| match kind {
        kind::F32 => f32::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::F64 => f64::from_le_bytes(b.try_into().unwrap()),
        kind::I32 => i32::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::U32 => u32::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::I64 => i64::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::U64 => u64::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::I16 => i16::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::U16 => u16::from_le_bytes(b.try_into().unwrap()) as f64,
        kind::F16 => f16::from_le_bytes(b.try_into().unwrap()).to_f64(),
        kind::BF16 => bf16::from_le_bytes(b.try_into().unwrap()).to_f64(),
        kind::I8 => b[0] as i8 as f64,
        _ => b[0] as f64,
    };
    Some(raw.chunks_exact(n).map(one).collect())
}

/// `AttributeProto`.
#[derive(Debug, Clone, Default)]
pub struct Attribute {
    pub name: String,
    pub float: f32,
    pub int: i64,
    pub text: String,
    pub tensor: Option<Host>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
    /// A graph, or something else that is not read.
    pub other: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Node {
    pub op: String,
    pub domain: String,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub attributes: Vec<Attribute>,
}

impl Node {
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|a| a.name == name)
    }
    pub fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, |a| a.int)
    }
    pub fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, |a| a.float)
    }
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        self.attribute(name).map_or(default, |a| &a.text)
    }
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|a| a.ints.clone())
    }
}

fn attribute(data: &[u8]) -> Attribute {
    let mut a = Attribute::default();
    for (at, field) in fields(data) {
        match (at, field) {
            (1, Field::Bytes(b)) => a.name = text(b),
            (2, Field::Number(n)) => a.float = f32::from_bits(n as u32),
            (3, Field::Number(n)) => a.int = n as i64,
            (4, Field::Bytes(b)) => a.text = text(b),
            (5, Field::Bytes(b)) => a.tensor = tensor(b).1,
            (7, Field::Number(n)) => a.floats.push(f32::from_bits(n as u32)),
            (7, Field::Bytes(b)) => {
                a.floats = b.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            (8, Field::Number(n)) => a.ints.push(n as i64),
            (8, Field::Bytes(b)) => a.ints = packed(b).iter().map(|n| *n as i64).collect(),
            (6 | 9 | 10 | 11 | 14 | 15, _) => a.other = true,
            _ => {}
        }
    }
    a
}

fn node(data: &[u8]) -> Node {
    let mut n = Node::default();
    for (at, field) in fields(data) {
        if let Field::Bytes(b) = field {
            match at {
                1 => n.inputs.push(text(b)),
                2 => n.outputs.push(text(b)),
                4 => n.op = text(b),
                5 => n.attributes.push(attribute(b)),
                7 => n.domain = text(b),
                _ => {}
            }
        }
    }
    n
}

/// `ModelProto` with its graph.
#[derive(Debug, Default)]
pub struct Model {
    pub nodes: Vec<Node>,
    pub constants: Vec<(String, Option<Host>)>,
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    /// The version of the default domain's ops.
    pub version: u64,
}

pub fn model(data: &[u8]) -> Model {
    let mut m = Model::default();
    for (at, field) in fields(data) {
        match (at, field) {
            (7, Field::Bytes(graph)) => {
                for (at, field) in fields(graph) {
                    let Field::Bytes(b) = field else { continue };
                    match at {
                        1 => m.nodes.push(node(b)),
                        5 => m.constants.push(tensor(b)),
                        11 => m.inputs.push(named(b)),
                        12 => m.outputs.push(named(b)),
                        _ => {}
                    }
                }
            }
            (8, Field::Bytes(b)) => {
                let import = fields(b);
                let other = import.iter().any(|f| matches!(f, (1, Field::Bytes(d)) if !d.is_empty()));
                if let (false, Some((_, Field::Number(n)))) = (other, import.iter().find(|f| f.0 == 2)) {
                    m.version = *n;
                }
            }
            _ => {}
        }
    }
    m
}

/// The name of a `ValueInfoProto`.
fn named(data: &[u8]) -> String {
    fields(data)
        .iter()
        .find_map(|f| if let (1, Field::Bytes(b)) = f { Some(text(b)) } else { None })
        .unwrap_or_default()
}
