//! Where stored values lie, before any dispatch is written.

use super::{Buffer, BufferId, Role};
use crate::base::{AdapterKind, Caps, DeviceFault, Error, Part, Result, Type};
use crate::format::Planes;
use crate::graph::{Graph, Source};
use crate::op::{Body, Primitive, Value};
use std::collections::HashMap;

/// Where stored values lie.
pub struct Places {
    pub map: HashMap<Value, BufferId>,
    /// Weights beyond the binding limit lie in several buffers, by rows.
    pub chunks: HashMap<Value, Vec<BufferId>>,
    pub buffers: Vec<Buffer>,
    /// Whether what the host writes and only products (on the right) and gathers read goes into textures.
    pub texels: bool,
}

/// Bytes of `ty` on a device at its bounds, whole words.
pub fn device_bytes(ty: &Type) -> u64 {
    let count = ty.shape.count().bound();
    match ty.dtype {
        d if d.is_quantised() => Planes::new(d, count / d.block() as u64).total(),
        d => count.saturating_mul(d.block_bytes() as u64).div_ceil(4).saturating_mul(4),
    }
    .max(4)
}

/// Elements of a weight that one dispatch of a software adapter reads.
const MOST_ELEMENTS: usize = 1 << 24;

impl Places {
    pub fn add(&mut self, graph: &Graph, v: Value, caps: &Caps) -> Result<()> {
        let node = graph.node(v);
        let role = match &node.source {
            Source::Const(_) | Source::Op { .. } => Role::Scratch,
            Source::Input => Role::Input(node.name.clone()),
            Source::State => Role::State(node.name.clone()),
            Source::Data(data) => Role::Data(data.clone()),
            Source::Weight { parts } => return self.add_weight(graph, v, parts, caps),
        };
        if let Source::Op { def, args, .. } = &node.source
            && matches!(def.body, Body::Primitive(Primitive::Append | Primitive::Assign))
        {
            self.map.insert(v, self.map[&args[0]]);
            return Ok(());
        }
        let bytes = device_bytes(&node.ty);
        let limit = caps.binding_bytes.min(caps.buffer_bytes);
        if bytes > limit {
            let what = format!(
                "\"{}\" {} takes {bytes} bytes, this device binds at most {limit}: use shorter sequences or a smaller context",
                node.name, node.ty
            );
            return Err(Error::device(DeviceFault::Limit, node.kind(), what));
        }
        let texels = matches!(role, Role::Input(_)) && self.in_texels(graph, v, bytes, caps);
        let id = self.push(Buffer { role, bytes, texels, label: node.name.clone() });
        self.map.insert(v, id);
        Ok(())
    }

    /// A weight in one buffer, or in several by rows where the binding limit asks for it, or a software adapter's speed: there
    /// one dispatch over all of a large one would keep the device for too long.
    fn add_weight(&mut self, graph: &Graph, v: Value, parts: &[Part], caps: &Caps) -> Result<()> {
        let (ty, name) = (&graph.node(v).ty, &graph.node(v).name);
        let limit = caps.binding_bytes.min(caps.buffer_bytes);
        let dims = ty.shape.known().ok_or_else(|| Error::op("weight", name, format!("{} is not known", ty.shape)))?;
        let rows = dims.first().copied().unwrap_or(1);
        let by_rows = graph.is_read_by_rows(v);
        let bytes_of = |rows: usize| {
            let mut shape = ty.shape.clone();
            shape.0.iter_mut().take(1).for_each(|d| *d = rows.into());
            device_bytes(&Type::new(ty.dtype, shape))
        };
        // Pieces of whole rows, a multiple of 64 so that every plane and packed word starts evenly.
        let mut most = rows;
        while bytes_of(most) > limit {
            most = if most > 64 { (most / 2).next_multiple_of(64).min(most - 1) / 64 * 64 } else { 0 };
            if most == 0 {
                let what = format!("weight \"{name}\" {ty} has rows beyond the {limit} bytes that this device binds");
                return Err(Error::device(DeviceFault::Limit, "weight", what));
            }
        }
        // Only what reads a weight row by row may find it in pieces.
        if most < rows && !by_rows {
            let what = format!(
                "weight \"{name}\" {ty} takes {} bytes, this device binds at most {limit}: only gathers of its rows and products with them read it in pieces, and something else reads it",
                bytes_of(rows)
            );
            return Err(Error::device(DeviceFault::Limit, "weight", what));
        }
        if caps.kind == AdapterKind::Software && by_rows {
            let slice = MOST_ELEMENTS / dims.get(1).copied().unwrap_or(1).max(1) / 64 * 64;
            most = most.min(slice.max(64));
        }
        let texels = self.in_texels(graph, v, bytes_of(most), caps);
        let mut ids = vec![];
        let mut start = 0;
        loop {
            let end = (start + most).min(rows);
            let role = Role::Weight { parts: parts.to_vec(), dtype: ty.dtype, rows: start..end, of_rows: rows };
            ids.push(self.push(Buffer { role, bytes: bytes_of(end - start), texels, label: name.into() }));
            start = end;
            if start >= rows {
                break;
            }
        }
        self.map.insert(v, ids[0]);
        self.chunks.insert(v, ids);
        Ok(())
    }

    /// Whether what the host writes goes into textures, of which the largest has `bytes`.
    fn in_texels(&self, graph: &Graph, v: Value, bytes: u64, caps: &Caps) -> bool {
        // Texels hold the bits of floats.
        let floats = graph.node(v).ty.dtype.is_float();
        self.texels && floats && bytes <= caps.texture_bytes() && graph.is_right_or_table(v)
    }

    fn push(&mut self, buffer: Buffer) -> BufferId {
        self.buffers.push(buffer);
        BufferId(self.buffers.len() as u32 - 1)
    }
}
