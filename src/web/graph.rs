//! The tensor level: a graph that JavaScript has written down as JSON, on a device.

use super::{Flag, breathe, choice};
use crate::base::{Array, Bindings, DType, Error, Result};
use crate::graph::{Attention, Graph, GraphBuilder, Tensor};
use crate::op::{self, Attrs, Body};
use crate::session::{Engine, Options, pick};
use serde::Deserialize;
use std::collections::HashMap;
use wasm_bindgen::prelude::*;

/// The nodes in order, and which of them are results.
#[derive(Deserialize)]
struct Written {
    nodes: Vec<Node>,
    outputs: Vec<(String, usize)>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Node {
    /// `input`, `data`, `number` or the name of an op.
    op: String,
    name: String,
    args: Vec<usize>,
    shape: Vec<usize>,
    axes: Vec<usize>,
    keep: bool,
    axis: usize,
    start: usize,
    length: usize,
    before: usize,
    after: usize,
    value: f32,
    eps: Option<f32>,
    dtype: String,
    transpose_a: bool,
    transpose_b: bool,
    scale: Option<f32>,
    causal: bool,
}

/// Elements that one tensor may have: what a 32-bit memory can hold of it.
const MOST: usize = 1 << 29;

fn dtype(name: &str) -> Result<DType> {
    match name {
        "" | "f32" => Ok(DType::F32),
        "u32" => Ok(DType::U32),
        "i32" => Ok(DType::I32),
        other => Err(Error::usage(format!("the type \"{other}\" is not known here: f32, u32 and i32 are"))),
    }
}

impl Node {
    fn add<'g>(
        &self,
        at: usize,
        g: &'g GraphBuilder,
        made: &[Tensor<'g>],
        constants: &mut Constants,
    ) -> Result<Tensor<'g>> {
        let wrong = |what: String| Error::op(&self.op, &format!("node {at}"), what);
        if self.shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).is_none_or(|n| n > MOST) {
            return Err(wrong(format!("{:?} has more than {MOST} elements", self.shape)));
        }
        let args = self.args.iter().map(|i| made.get(*i).copied()).collect::<Option<Vec<_>>>();
        let args = args.ok_or_else(|| wrong("an operand does not come before it".into()))?;
        let attrs = match self.op.as_str() {
            "input" => return Ok(g.input(&self.name, dtype(&self.dtype)?, self.shape.as_slice())),
            "number" => return Ok(g.constant(self.value)),
            "data" => {
                let slot =
                    constants.given.get_mut(self.start).ok_or_else(|| wrong("its elements are missing".into()))?;
                let given = std::mem::take(slot);
                if given.len() != self.shape.iter().product::<usize>() {
                    return Err(wrong(format!("{} elements do not fill {:?}", given.len(), self.shape)));
                }
                // As weights: a matrix above the binding limit is split.
                let name = format!("data {at}");
                constants.arrays.insert(name.clone(), Array::f32(&self.shape, &given));
                return Ok(g.weight(&name, DType::F32, self.shape.as_slice()));
            }
            "iota" => Attrs::Iota {
                shape: self.shape.as_slice().into(),
                axis: self.axis,
                start: (self.start as i64).into(),
                dtype: dtype(&self.dtype)?,
            },
            "sum" | "mean" | "max" | "min" | "argmax" => Attrs::Reduce { axes: self.axes.clone(), keep: self.keep },
            "reshape" | "broadcast" => Attrs::Shape(self.shape.as_slice().into()),
            "transpose" => Attrs::Perm(self.axes.clone()),
            "concat" => Attrs::Axis(self.axis),
            "slice" => Attrs::Slice {
                axis: self.axis,
                start: (self.start as i64).into(),
                len: (self.length as i64).into(),
                step: 1,
            },
            "pad" => Attrs::Pad { axis: self.axis, before: self.before, after: self.after, value: self.value },
            "cast" => Attrs::Cast(dtype(&self.dtype)?),
            "matmul" => Attrs::Matmul { ta: self.transpose_a, tb: self.transpose_b },
            "layer_norm" | "rms_norm" => Attrs::Norm { eps: self.eps.unwrap_or(1e-5) },
            "attention" => {
                let width =
                    args.first().and_then(|q| q.shape().known()).and_then(|s| s.last().copied()).unwrap_or(1).max(1);
                let past = || {
                    let rows = |i: usize| {
                        args.get(i).and_then(|x| x.shape().known()).and_then(|s| s.get(1).copied()).unwrap_or(0)
                    };
                    (rows(1) as i64 - rows(0) as i64).max(0)
                };
                Attrs::Attention(Attention {
                    scale: self.scale.unwrap_or(1.0 / (width as f32).sqrt()),
                    causal: self.causal.then(|| past().into()),
                    window: None,
                    softcap: None,
                    sinks: false,
                })
            }
            _ => Attrs::None,
        };
        let def =
            op::find(&self.op).ok_or_else(|| wrong(format!("is no op; elementwise ops are: {}", elementwise())))?;
        Ok(g.op(def, attrs, &args))
    }
}

fn elementwise() -> String {
    op::table().filter(|d| matches!(d.body, Body::Scalar(_))).map(|d| d.name).collect::<Vec<_>>().join(", ")
}

/// Elements as JavaScript gave them, and by name as nodes have them.
struct Constants {
    given: Vec<Vec<f32>>,
    arrays: HashMap<String, Array>,
}

fn graph(written: &Written, constants: &mut Constants) -> Result<Graph> {
    let g = GraphBuilder::new();
    let mut made = vec![];
    for (i, node) in written.nodes.iter().enumerate() {
        made.push(node.add(i, &g, &made, constants)?);
    }
    for (name, at) in &written.outputs {
        let x = made
            .get(*at)
            .ok_or_else(|| Error::usage(format!("output \"{name}\" is node {at}, which does not exist")))?;
        g.output(name, *x);
    }
    g.finish()
}

/// A compiled graph.
#[wasm_bindgen]
pub struct Program {
    engine: Engine,
    inputs: Vec<(String, DType, Vec<usize>)>,
    outputs: Vec<String>,
}

#[wasm_bindgen]
impl Program {
    /// `data` are Float32Arrays, which nodes name by their place.
    pub async fn compile(json: String, data: js_sys::Array, device: String) -> Result<Program, JsValue> {
        let written: Written =
            serde_json::from_str(&json).map_err(|e| Error::usage(format!("the graph is wrong: {e}")))?;
        let given = data.iter().map(|a| js_sys::Float32Array::new(&a).to_vec()).collect();
        let mut constants = Constants { given, arrays: HashMap::new() };
        let graph = graph(&written, &mut constants)?;
        let weights = constants.arrays;
        let inputs = written.nodes.iter().filter(|n| n.op == "input");
        let inputs = inputs.map(|n| Ok((n.name.clone(), dtype(&n.dtype)?, n.shape.clone()))).collect::<Result<_>>()?;
        let outputs = written.outputs.into_iter().map(|o| o.0).collect();
        let gpu = pick(&choice(&device)?).await?.gpu;
        let options = Options { breathe: Some(breathe), ..Options::default() };
        let engine = Engine::load(gpu, &graph, &weights, &options).await?;
        Ok(Program { engine, inputs, outputs })
    }

    fn arrays(&self, given: &js_sys::Array) -> Result<Vec<(String, Array)>> {
        let mut arrays = vec![];
        for pair in given.iter() {
            let pair = js_sys::Array::from(&pair);
            let name = pair.get(0).as_string().unwrap_or_default();
            let port = self
                .inputs
                .iter()
                .find(|i| i.0 == name)
                .ok_or_else(|| Error::usage(format!("there is no input \"{name}\"")))?;
            arrays.push((name, elements(port, pair.get(1))?));
        }
        Ok(arrays)
    }

    /// Median seconds of a run on these inputs, without reading the outputs, in rounds of `repeat` runs.
    pub async fn seconds(&mut self, given: js_sys::Array, repeat: usize) -> Result<f64, JsValue> {
        let arrays = self.arrays(&given)?;
        let inputs: Vec<(&str, Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
        Ok(self.engine.seconds(&Bindings::new(), &inputs, repeat).await?)
    }

    /// Takes an array of `[name, typed array]`, gives an array of `[name, shape, typed array]`.
    pub async fn run(&mut self, given: js_sys::Array, cancel: Flag) -> Result<js_sys::Array, JsValue> {
        let arrays = self.arrays(&given)?;
        let inputs: Vec<(&str, Array)> = arrays.iter().map(|(n, a)| (n.as_str(), a.clone())).collect();
        let outputs: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        let made = self.engine.run_until(&Bindings::new(), &inputs, &outputs, &cancel.0).await?;
        let out = js_sys::Array::new();
        for (name, array) in outputs.iter().zip(made) {
            let shape: js_sys::Array = array.shape.iter().map(|d| JsValue::from(*d as u32)).collect();
            let elements: JsValue = match array.dtype.is_float() {
                true => js_sys::Float32Array::from(array.to_f32().as_slice()).into(),
                false => js_sys::Uint32Array::from(array.to_u32().as_slice()).into(),
            };
            out.push(&js_sys::Array::of3(&(*name).into(), &shape, &elements));
        }
        Ok(out)
    }

    /// Bytes of device memory in use.
    pub fn bytes(&self) -> f64 {
        self.engine.gpu().map_or(0.0, |g| g.used_bytes() as f64)
    }
    pub fn adapter(&self) -> String {
        self.engine.adapter()
    }
    /// Frees the graph; bytes of its device that are still in use after that, which must be none.
    pub fn close(self) -> f64 {
        let gpu = self.engine.gpu().cloned();
        drop(self);
        gpu.map_or(0.0, |g| g.used_bytes() as f64)
    }
}

fn elements((name, dtype, shape): &(String, DType, Vec<usize>), given: JsValue) -> Result<Array> {
    let count = shape.iter().product::<usize>();
    let check = |n: u32| match n as usize == count {
        true => Ok(()),
        false => Err(Error::usage(format!("input \"{name}\" has {n} elements, {shape:?} takes {count}"))),
    };
    if *dtype == DType::F32 {
        let array = js_sys::Float32Array::new(&given);
        check(array.length())?;
        return Ok(Array::f32(shape, &array.to_vec()));
    }
    let array = js_sys::Uint32Array::new(&given);
    check(array.length())?;
    Ok(Array { dtype: *dtype, ..Array::u32(shape, &array.to_vec()) })
}
