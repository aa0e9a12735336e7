//! All ranks of a mesh in one interpreter: sharded graphs without devices, collectives by their meaning.

use super::value::{Data, Real, Tensor};
use super::{Interpreter, Running};
use crate::base::{Array, Bindings, Combine, Error, Result, Seat, Weights};
use crate::graph::{Graph, Source};
use crate::op::{Attrs, Body, Collective, Exchange, Value};
use std::collections::HashMap;

/// One interpreter a rank.
pub struct Ranks<T: Real> {
    ranks: Vec<Interpreter<T>>,
    seats: Vec<Seat>,
}

/// One rank's part of a step: its bindings and its pieces of the inputs.
pub type Part<'a> = (Bindings, Vec<(&'a str, Array)>);

impl<T: Real> Ranks<T> {
    /// One graph and one seat a rank.
    pub fn new(graphs: &[&Graph], seats: &[Seat], weights: &dyn Weights) -> Result<Self> {
        let ranks = graphs.iter().zip(seats).map(|(g, s)| Interpreter::at(g, weights, s)).collect::<Result<_>>()?;
        Ok(Ranks { ranks, seats: seats.to_vec() })
    }

    pub fn reset(&mut self) {
        self.ranks.iter_mut().for_each(Interpreter::reset);
    }

    /// Bytes of each rank: weights, states and the most that a step's values took.
    pub fn memory_bytes(&self) -> Vec<u64> {
        self.ranks.iter().map(Interpreter::memory_bytes).collect()
    }

    /// Sets a rank's piece of a state.
    pub fn set_state(&mut self, rank: usize, name: &str, array: &Array) {
        self.ranks[rank].set_state(name, array);
    }

    /// One step of the ranks that have a part; each rank's outputs.
    ///
    /// # Errors
    /// Those of one interpreter; ranks that wait for each other for ever.
    pub fn step(&mut self, parts: &[Option<Part>]) -> Result<Vec<Vec<(String, Array)>>> {
        let outputs = self.run(parts)?;
        let array = |rank: &Interpreter<T>, (name, t): (String, Tensor<T>)| {
            let v = rank.graph.outputs.iter().find(|o| o.0 == name).map(|o| o.1);
            (name, t.to_array(v.map_or(crate::base::DType::F32, |v| rank.graph.node(v).ty.dtype)))
        };
        Ok(outputs.into_iter().zip(&self.ranks).map(|(o, r)| o.into_iter().map(|x| array(r, x)).collect()).collect())
    }

    /// Like [`Ranks::step`], in full precision.
    pub fn step_values(&mut self, parts: &[Option<Part>]) -> Result<Vec<Vec<(String, Vec<f64>)>>> {
        Ok(self.run(parts)?.into_iter().map(|o| o.into_iter().map(|(n, t)| (n, t.to_f64())).collect()).collect())
    }

    fn run(&mut self, parts: &[Option<Part>]) -> Result<Vec<Vec<(String, Tensor<T>)>>> {
        let mut running: Vec<Option<Running<T>>> = vec![];
        for (rank, part) in self.ranks.iter().zip(parts) {
            running.push(part.as_ref().map(|(_, inputs)| rank.begin(inputs)).transpose()?);
        }
        let mut mail: HashMap<(u32, usize), Tensor<T>> = HashMap::new();
        let mut done = vec![false; parts.len()];
        loop {
            let mut waiting: Vec<Option<Value>> = vec![None; parts.len()];
            for (i, (part, run)) in parts.iter().zip(&mut running).enumerate() {
                if let (Some((bindings, inputs)), Some(run)) = (part, run) {
                    waiting[i] = self.ranks[i].advance(run, bindings, inputs)?;
                    done[i] = waiting[i].is_none();
                } else {
                    done[i] = true;
                }
            }
            if done.iter().all(|d| *d) {
                break;
            }
            self.exchange(&waiting, parts, &mut running, &mut mail)?;
        }
        let finish = |(rank, run): (&Interpreter<T>, Option<Running<T>>)| run.map_or(Ok(vec![]), |r| rank.finish(r));
        self.ranks.iter().zip(running).map(finish).collect()
    }

    /// Serves every collective whose ranks are all there.
    fn exchange(
        &mut self,
        waiting: &[Option<Value>],
        parts: &[Option<Part>],
        running: &mut [Option<Running<T>>],
        mail: &mut HashMap<(u32, usize), Tensor<T>>,
    ) -> Result<()> {
        let mut served = 0;
        let mut seen = vec![false; waiting.len()];
        for rank in 0..waiting.len() {
            let Some((exchange, c, _)) = self.due(rank, waiting[rank]) else { continue };
            if std::mem::replace(&mut seen[rank], true) {
                continue;
            }
            let group = self.group(rank, &c);
            let results: Vec<(usize, Tensor<T>)> = match exchange {
                Exchange::Send => {
                    let x = self.operand(rank, waiting[rank], running)?;
                    mail.insert((c.tag, group[c.peer]), x.clone());
                    vec![(rank, x)]
                }
                Exchange::Receive => mail.remove(&(c.tag, rank)).map(|x| (rank, x)).into_iter().collect(),
                _ => {
                    let there = |r: &usize| {
                        self.due(*r, waiting[*r]).is_some_and(|(e, other, _)| e == exchange && other.tag == c.tag)
                    };
                    if !group.iter().all(there) {
                        continue;
                    }
                    group.iter().for_each(|r| seen[*r] = true);
                    let mut all = vec![];
                    for r in &group {
                        let how = self
                            .due(*r, waiting[*r])
                            .map(|d| d.1)
                            .ok_or_else(|| Error::usage("a rank left its group"))?;
                        let bindings = parts[*r].as_ref().map(|p| p.0.clone()).unwrap_or_default();
                        let x = if self.operands(waiting[*r], *r) == 0 {
                            None
                        } else {
                            Some(self.operand(*r, waiting[*r], running)?)
                        };
                        all.push((how, bindings, x));
                    }
                    let made = meet(exchange, &all)?;
                    group.into_iter().zip(made).collect()
                }
            };
            for (r, value) in results {
                served += 1;
                if let Some(run) = &mut running[r] {
                    self.ranks[r].supply(run, value)?;
                }
            }
        }
        if served > 0 {
            return Ok(());
        }
        let stuck = (0..waiting.len()).find_map(|r| waiting[r].map(|v| (r, &self.ranks[r].graph.node(v).name)));
        let (rank, name) = stuck.map_or((0, String::new()), |(r, n)| (r, n.clone()));
        Err(Error::op("collective", &name, format!("rank {rank} waits for ranks that never come")))
    }

    fn due(&self, rank: usize, v: Option<Value>) -> Option<(Exchange, Collective, Value)> {
        let v = v?;
        match &self.ranks[rank].graph.node(v).source {
            Source::Op { def, attrs: Attrs::Collective(c), .. } => match def.body {
                Body::Collective(e) => Some((e, (**c).clone(), v)),
                _ => None,
            },
            _ => None,
        }
    }

    fn operands(&self, v: Option<Value>, rank: usize) -> usize {
        v.map_or(0, |v| self.ranks[rank].graph.node(v).args().len())
    }

    fn operand(&self, rank: usize, v: Option<Value>, running: &[Option<Running<T>>]) -> Result<Tensor<T>> {
        let missing = || Error::usage(format!("rank {rank} has no operand for its collective"));
        let a = v.and_then(|v| self.ranks[rank].graph.node(v).args().first().copied()).ok_or_else(missing)?;
        running[rank].as_ref().and_then(|r| r.values[a.0 as usize].clone()).ok_or_else(missing)
    }

    /// Ranks that differ only along the collective's axis.
    fn group(&self, rank: usize, c: &Collective) -> Vec<usize> {
        let seat = &self.seats[rank];
        (0..c.ways).filter_map(|i| self.seats.iter().position(|s| *s == seat.moved(c.over, i))).collect()
    }
}

/// What each rank of a group gets.
fn meet<T: Real>(exchange: Exchange, all: &[(Collective, Bindings, Option<Tensor<T>>)]) -> Result<Vec<Tensor<T>>> {
    let n = all.len();
    let operand = |i: usize| all[i].2.as_ref().ok_or_else(|| Error::usage("a rank brings no operand"));
    let (c, bindings, _) = &all[0];
    match exchange {
        Exchange::Broadcast => Ok(vec![operand(c.peer)?.clone(); n]),
        Exchange::Permute => (0..n).map(|i| Ok(operand((i + n - c.peer % n) % n)?.clone())).collect(),
        Exchange::AllReduce => {
            let sum = combined(all)?;
            Ok(vec![sum; n])
        }
        Exchange::ReduceScatter => {
            let sum = combined(all)?;
            let rows = c.rows.eval(bindings)?;
            let piece = |i: usize| {
                let r = c.cut.range(rows, n, i);
                Tensor {
                    offset: sum.offset + r.start as usize * sum.strides[0],
                    shape: with_rows(&sum.shape, (r.end - r.start) as usize),
                    ..sum.clone()
                }
            };
            Ok((0..n).map(piece).collect())
        }
        Exchange::AllGather => {
            let rows = (0..n).map(|i| operand(i).map(|x| x.shape[0])).sum::<Result<usize>>()?;
            let mut out = Tensor::<T>::zeros(all_dtype(operand(0)?), &with_rows(&operand(0)?.shape, rows));
            let mut at = 0;
            for i in 0..n {
                let x = operand(i)?;
                out.write_rows(at, x);
                at += x.shape[0];
            }
            Ok(vec![out; n])
        }
        Exchange::AllToAll => {
            let other = c.other.ok_or_else(|| Error::usage("an exchange lacks its other axis"))?;
            let (rows, whole, rest) =
                (c.rows.eval(bindings)?, other.whole.eval(bindings)?, other.rest.eval(bindings)? as usize);
            let part = |cut: &crate::base::Cut, len: u64, i: usize| cut.len(len, bindings, n, i).map(|l| l as usize);
            let mut out = vec![vec![]; n];
            for i in 0..n {
                let x = operand(i)?.to_f64();
                let mine = part(&c.cut, rows, i)?;
                let mut at = 0;
                for (j, to) in out.iter_mut().enumerate() {
                    let run = mine * part(&other.cut, whole, j)? * rest;
                    to.extend(x[at..at + run].iter().map(|v| T::of(*v)));
                    at += run;
                }
            }
            Ok(out
                .into_iter()
                .map(|v| {
                    let n = v.len();
                    Tensor::floats(v, &[n])
                })
                .collect())
        }
        Exchange::Send | Exchange::Receive => Err(Error::usage("stages exchange by mail")),
    }
}

fn with_rows(shape: &[usize], rows: usize) -> Vec<usize> {
    let mut out = shape.to_vec();
    if let Some(first) = out.first_mut() {
        *first = rows;
    }
    out
}

fn all_dtype<T>(x: &Tensor<T>) -> crate::base::DType {
    match x.data {
        Data::Ints(_) => crate::base::DType::I32,
        _ => crate::base::DType::F32,
    }
}

/// All operands combined in the order of the ranks.
fn combined<T: Real>(all: &[(Collective, Bindings, Option<Tensor<T>>)]) -> Result<Tensor<T>> {
    let mut out: Option<(Vec<f64>, Vec<usize>)> = None;
    for (c, _, x) in all {
        let x = x.as_ref().ok_or_else(|| Error::usage("a rank brings no operand"))?;
        out = Some(match out {
            None => (x.to_f64(), x.shape.clone()),
            Some((mut sum, shape)) => {
                if shape != x.shape {
                    return Err(Error::usage(format!("ranks bring {shape:?} and {:?} to one sum", x.shape)));
                }
                for (s, v) in sum.iter_mut().zip(x.to_f64()) {
                    *s = match c.combine {
                        Combine::Sum => *s + v,
                        Combine::Max => s.max(v),
                        Combine::Min => s.min(v),
                    };
                }
                (sum, shape)
            }
        });
    }
    let (sum, shape) = out.ok_or_else(|| Error::usage("a group of no ranks"))?;
    Ok(Tensor::floats(sum.into_iter().map(T::of).collect(), &shape))
}
