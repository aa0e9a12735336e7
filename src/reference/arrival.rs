//! Weights that arrive after their interpreter was made, in any pieces and any order.

use super::rows::{Rows, Team};
use super::value::{Data, Real, Tensor, strides};
use crate::base::{Array, DType, Error, Piece, Result, Seat, Weights};
use crate::graph::{Graph, Source};
use crate::op::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// What is waited for.
#[derive(Default)]
pub struct Arrival {
    slots: Vec<Slot>,
    parts: HashMap<String, Vec<Part>>,
}

/// A weight of the graph.
struct Slot {
    value: Value,
    dtype: DType,
    shape: Vec<usize>,
    to: To,
}

enum To {
    Rows(Rows),
    Bytes(Vec<u8>),
}

/// A file's tensor within a weight.
struct Part {
    slot: usize,
    first: u64,
    blocks: u64,
    got: u64,
}

impl Arrival {
    /// Makes room for the weights that `graph` names.
    ///
    /// # Errors
    /// A weight of another type or shape than the graph says; memory that is not there.
    pub fn of(graph: &Graph, weights: &dyn Weights, team: Option<Arc<dyn Team>>) -> Result<Arrival> {
        let mut out = Arrival::default();
        for value in graph.values() {
            let node = graph.node(value);
            let Source::Weight { parts } = &node.source else { continue };
            let wrong = |what: String| Error::op("weight", &node.name, what);
            let (dtype, Some(shape)) = (node.ty.dtype, node.ty.shape.known()) else {
                return Err(wrong(format!("{} is not known", node.ty)));
            };
            let (slot, mut first) = (out.slots.len(), 0);
            for part in parts {
                let piece = Piece::new(weights, part, &Seat::default())?;
                if piece.dtype != dtype {
                    return Err(wrong(format!("is {}, it must be {dtype}", piece.dtype)));
                }
                let blocks = piece.shape.iter().product::<usize>() as u64 / dtype.block() as u64;
                out.parts.entry(part.name.clone()).or_default().push(Part { slot, first, blocks, got: 0 });
                first += blocks;
            }
            let count = shape.iter().product::<usize>();
            if first * dtype.block() as u64 != count as u64 {
                return Err(wrong(format!("does not fill {}", node.ty)));
            }
            let to = match shape[..] {
                [n, k] if Rows::can_hold(k) && graph.is_read_by_rows(value) => {
                    To::Rows(Rows::new(slot as u32, dtype, [n, k], team.clone()).map_err(|e| e.at_node(&node.name))?)
                }
                _ => To::Bytes(vec![0; dtype.bytes(count as u64).unwrap_or(0) as usize]),
            };
            out.slots.push(Slot { value, dtype, shape, to });
        }
        Ok(out)
    }

    /// Takes blocks of a file's tensor, from block `block` of it on. What no weight is made of is left.
    pub fn feed(&mut self, tensor: &str, block: u64, bytes: &[u8]) -> Result<()> {
        for part in self.parts.get_mut(tensor).into_iter().flatten() {
            let slot = &mut self.slots[part.slot];
            let size = slot.dtype.block_bytes();
            let n = (bytes.len() / size) as u64;
            if block + n > part.blocks {
                return Err(Error::op(
                    "weight",
                    tensor,
                    format!("has {} blocks, block {} came", part.blocks, block + n),
                ));
            }
            part.got += n;
            let at = (part.first + block) as usize;
            match &mut slot.to {
                To::Rows(rows) => rows.feed(at, bytes)?,
                To::Bytes(all) => all[at * size..at * size + bytes.len()].copy_from_slice(bytes),
            }
        }
        Ok(())
    }

    /// The weights, when all have come.
    ///
    /// # Errors
    /// A tensor of which not every block came.
    pub fn finish<T: Real>(self) -> Result<Vec<(Value, Tensor<T>)>> {
        for (name, parts) in &self.parts {
            if let Some(p) = parts.iter().find(|p| p.got != p.blocks) {
                return Err(Error::op("weight", name, format!("{} of {} blocks have come", p.got, p.blocks)));
            }
        }
        let made = |s: Slot| {
            let data = match s.to {
                To::Rows(rows) => Data::Rows(Arc::new(rows)),
                To::Bytes(bytes) if s.dtype.is_quantised() => Data::Blocks(bytes.into(), s.dtype),
                To::Bytes(bytes) => return Ok((s.value, Tensor::from_array(&Array::new(s.dtype, &s.shape, bytes)?))),
            };
            Ok((s.value, Tensor { data, strides: strides(&s.shape), shape: s.shape, offset: 0 }))
        };
        self.slots.into_iter().map(made).collect()
    }
}
