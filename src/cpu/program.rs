//! What a program is: values with their places, and instructions in the order in which they run.

use super::blocks::BLOCK;
use super::isa::LANES;
use super::kv::Layout;
use super::product::Act;
use crate::base::{DType, Dim, Type};
use crate::op::{Attention, OpDef, Reduce, RopeLayout, Value};
use std::sync::Arc;

/// The number of a value of the program.
pub type Id = usize;
/// The number of a dimension: each different one is computed once a step.
pub type DimId = usize;

/// Where a value's elements are.
#[derive(Debug, Clone)]
pub enum From {
    /// Given each step; the program's copy.
    Input,
    Const(f32),
    Data(Arc<[f32]>),
    Weight(usize),
    State(usize),
    Perm {
        of: Id,
        perm: Vec<usize>,
    },
    Slice {
        of: Id,
        axis: usize,
        start: DimId,
        len: DimId,
        step: usize,
    },
    Broadcast {
        of: Id,
    },
    /// The same elements under another shape: a view where strides can say it, else a copy.
    Reshape {
        of: Id,
    },
    /// Row-major: the value itself where it is, else a copy.
    Dense {
        of: Id,
    },
    /// Exactly where another value is.
    Alias {
        of: Id,
    },
    /// Written by an instruction.
    Made,
    /// Bytes and scales of rows of `of`, written by an instruction.
    Bytes {
        of: Id,
    },
    /// Parts of an attention over many keys: as many as one step needs.
    Parts {
        attention: usize,
    },
}

/// A value: every element is a word of 32 bits, f16 in the memory of a step too.
#[derive(Debug, Clone)]
pub struct Val {
    pub from: From,
    pub dtype: DType,
    pub shape: Vec<DimId>,
    /// The node that it came from, for messages.
    pub node: Value,
}

/// What is done to an output of a product before it is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Then {
    /// A value of one row is added.
    Row(Id),
    /// A value of the same shape is added.
    Full(Id),
    Act(Act),
}

/// One weight's share of a [`Op::Linear`].
#[derive(Debug, Clone)]
pub struct Part {
    pub weight: usize,
    pub out: Id,
    pub then: Vec<Then>,
}

#[derive(Debug, Clone)]
pub enum Op {
    /// A value to where it is row-major.
    Copy {
        from: Id,
    },
    /// Rows to bytes by blocks of 32.
    Quantise {
        x: Id,
    },
    /// Products of the same rows with packed weights.
    Linear {
        x: Id,
        bytes: Option<Id>,
        parts: Vec<Part>,
    },
    Matmul {
        a: Id,
        b: Id,
    },
    Norm {
        x: Id,
        w: Id,
        b: Option<Id>,
        eps: f32,
        centred: bool,
    },
    Softmax {
        x: Id,
        log: bool,
    },
    Rope {
        x: Id,
        cos: Id,
        sin: Id,
        layout: RopeLayout,
    },
    Attention {
        q: Id,
        k: Kv,
        v: Kv,
        mask: Option<Id>,
        how: Attention,
        past: Option<DimId>,
        parts: Id,
    },
    /// Attention of rows of many sequences to keys and values in pages.
    Pages {
        q: Id,
        k: Kv,
        v: Kv,
        tables: Id,
        sequences: Id,
        positions: Id,
        sinks: Option<Id>,
        how: Attention,
        page: usize,
        parts: Id,
    },
    /// The gated delta rule: q, k, v, gates, states, slots, owners.
    Delta {
        operands: [Id; 7],
    },
    /// Parts of an attention, where there are several, become its result.
    Merge {
        attention: usize,
    },
    Map {
        def: &'static OpDef,
        args: Vec<Id>,
    },
    Reduce {
        x: Id,
        axes: Vec<usize>,
        kind: Reduce,
    },
    Gather {
        table: Table,
        ids: Id,
    },
    /// Products of each token with the rows of a table that begin where it says.
    Experts {
        x: Id,
        bytes: Option<Id>,
        table: Table,
        first: Id,
    },
    ScatterAdd {
        x: Id,
        ids: Id,
    },
    Concat {
        axis: usize,
        args: Vec<Id>,
    },
    Pad {
        x: Id,
        axis: usize,
        before: usize,
        value: f32,
    },
    Cast {
        x: Id,
    },
    Iota {
        axis: usize,
        start: DimId,
    },
    /// Rows into a state, in place.
    Append {
        state: usize,
        rows: Id,
        at: At,
    },
    /// A state's new contents, behind everything else.
    Assign {
        state: usize,
        x: Id,
    },
}

/// What a gather reads rows of.
#[derive(Debug, Clone, Copy)]
pub enum Table {
    Packed(usize),
    Value(Id),
}

#[derive(Debug, Clone)]
pub struct Instr {
    pub op: Op,
    pub out: Id,
    pub node: Value,
}

/// A weight of the graph.
#[derive(Debug, Clone)]
pub struct WeightInfo {
    pub node: Value,
    pub name: String,
    pub ty: Type,
    /// Whether it is kept in rows for products; else its elements are words.
    pub packed: bool,
}

/// A value that outlives the step.
#[derive(Debug, Clone)]
pub struct StateInfo {
    pub name: String,
    pub ty: Type,
    pub layout: Layout,
}

/// Where rows go in a state.
#[derive(Debug, Clone, Copy)]
pub enum At {
    /// Behind so many others.
    Behind(DimId),
    /// Each where its id says.
    Ids(Id),
}

/// What attention reads keys and values of.
#[derive(Debug, Clone, Copy)]
pub enum Kv {
    Value(Id),
    /// A state that lies by heads; the value says how many rows of it.
    State(usize, Id),
}

impl Kv {
    pub fn id(self) -> Id {
        match self {
            Kv::Value(id) | Kv::State(_, id) => id,
        }
    }
}

/// Instructions and what they are about.
#[derive(Debug, Clone, Default)]
pub struct Program {
    pub vals: Vec<Val>,
    pub dims: Vec<Dim>,
    pub instrs: Vec<Instr>,
    pub weights: Vec<WeightInfo>,
    pub states: Vec<StateInfo>,
    /// Name, type and value.
    pub inputs: Vec<(String, Type, Id)>,
    pub outputs: Vec<(String, DType, Id)>,
    /// The last instruction that needs the memory of each value; every instruction for outputs.
    pub last_use: Vec<usize>,
    /// The first instruction that writes each value; the largest number for those that no instruction does.
    pub made_at: Vec<usize>,
}

impl Program {
    /// The value in whose memory a value lies, if it is a view.
    pub fn base(&self, id: Id) -> Option<Id> {
        match self.vals[id].from {
            From::Perm { of, .. }
            | From::Slice { of, .. }
            | From::Broadcast { of }
            | From::Reshape { of }
            | From::Dense { of }
            | From::Alias { of } => Some(of),
            _ => None,
        }
    }

    /// All values that an instruction reads.
    pub fn reads(&self, instr: &Instr) -> Vec<Id> {
        match &instr.op {
            Op::Copy { from } => vec![*from],
            Op::Quantise { x } | Op::Softmax { x, .. } | Op::Reduce { x, .. } | Op::Cast { x } => vec![*x],
            Op::Pad { x, .. } | Op::Assign { x, .. } => vec![*x],
            Op::Linear { x, bytes, parts } => {
                let then = parts.iter().flat_map(|p| &p.then).filter_map(|t| match t {
                    Then::Row(v) | Then::Full(v) => Some(*v),
                    Then::Act(_) => None,
                });
                [*x].into_iter().chain(*bytes).chain(then).collect()
            }
            Op::Matmul { a, b } => vec![*a, *b],
            Op::Norm { x, w, b, .. } => [*x, *w].into_iter().chain(*b).collect(),
            Op::Rope { x, cos, sin, .. } => vec![*x, *cos, *sin],
            Op::Attention { q, k, v, mask, .. } => [*q, k.id(), v.id()].into_iter().chain(*mask).collect(),
            Op::Pages { q, k, v, tables, sequences, positions, sinks, .. } => {
                [*q, k.id(), v.id(), *tables, *sequences, *positions].into_iter().chain(*sinks).collect()
            }
            Op::Merge { attention } => match &self.instrs[*attention].op {
                Op::Attention { q, parts, .. } | Op::Pages { q, parts, .. } => vec![*q, *parts],
                _ => vec![],
            },
            Op::Delta { operands } => operands.to_vec(),
            Op::Map { args, .. } | Op::Concat { args, .. } => args.clone(),
            Op::Gather { table: Table::Value(t), ids } => vec![*t, *ids],
            Op::Gather { table: Table::Packed(_), ids } => vec![*ids],
            Op::Experts { x, bytes, table, first } => {
                let table = match table {
                    Table::Value(t) => Some(*t),
                    Table::Packed(_) => None,
                };
                [*x, *first].into_iter().chain(*bytes).chain(table).collect()
            }
            Op::ScatterAdd { x, ids } => vec![*x, *ids],
            Op::Iota { .. } => vec![],
            Op::Append { rows, at: At::Ids(ids), .. } => vec![*rows, *ids],
            Op::Append { rows, .. } => vec![*rows],
        }
    }

    /// All values that an instruction writes.
    pub fn writes(&self, instr: &Instr) -> Vec<Id> {
        match &instr.op {
            Op::Linear { parts, .. } => parts.iter().map(|p| p.out).collect(),
            Op::Attention { parts, .. } | Op::Pages { parts, .. } => vec![instr.out, *parts],
            Op::Append { .. } | Op::Assign { .. } => vec![],
            _ => vec![instr.out],
        }
    }

    /// Fills in when values are made and last used.
    pub fn find_lives(&mut self) {
        let n = self.vals.len();
        (self.last_use, self.made_at) = (vec![0; n], vec![usize::MAX; n]);
        for (at, instr) in self.instrs.iter().enumerate() {
            for id in self.writes(instr) {
                self.made_at[id] = self.made_at[id].min(at);
                self.last_use[id] = self.last_use[id].max(at);
            }
            for id in self.reads(instr) {
                self.last_use[id] = self.last_use[id].max(at);
            }
        }
        for (_, _, id) in &self.outputs {
            self.last_use[*id] = usize::MAX;
        }
        // A view keeps what it looks at; operands come before it.
        for id in (0..n).rev() {
            if let Some(of) = self.base(id) {
                self.last_use[of] = self.last_use[of].max(self.last_use[id]);
            }
        }
    }
}

/// Words of memory that rows of bytes take: the bytes, then four f32 for each block.
pub const fn bytes_words(rows: usize, k: usize) -> usize {
    (rows * k).div_ceil(4).next_multiple_of(LANES) + rows * k.div_ceil(BLOCK) * 4
}
