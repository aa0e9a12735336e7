//! A decoder's step over rows of many sequences, whose keys and values lie in pages (Kwon et al., 2023).

use super::decoder::{angles, head, layers};
use super::{Blocks, Decoder, Origin, Rows};
use crate::base::{DType, Dim, Result, Var, Weights};
use crate::graph::{self, Graph, GraphBuilder, Tensor};

/// The sizes of a step over pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PagedShape {
    /// Rows (tokens) of the step, of all sequences together: a number, or a variable.
    pub rows: Dim,
    /// Rows whose logits are made.
    pub outputs: Dim,
    /// Sequences that a step may have rows of.
    pub sequences: usize,
    /// Tokens of a sequence.
    pub context: usize,
    /// Tokens of a page.
    pub page: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// In what keys and values are kept: f32, f16 or q8_0.
    pub kv: DType,
}

impl PagedShape {
    /// Pages of the longest sequence.
    pub fn per_sequence(&self) -> usize {
        self.context.div_ceil(self.page.max(1))
    }
    /// Sequences of the step, of families whose sequences have states of their own.
    pub fn active(&self) -> Var {
        Var::new("active", self.sequences as u32)
    }
}

/// What rows are told of where they stand: inputs of the step.
pub struct Pages<'g> {
    /// The pages of each sequence, u32 `[sequences, pages of one]`.
    pub tables: Tensor<'g>,
    /// The sequence of each row, and where in it the row is: u32 `[rows]`.
    pub sequences: Tensor<'g>,
    pub positions: Tensor<'g>,
    /// The row of the pool where a row's keys and values go.
    pub places: Tensor<'g>,
    /// The rows of the pool of the token before each row's, the one before that, and so on; beyond the pool where there is none.
    pub earlier: Vec<Tensor<'g>>,
    /// Of families whose sequences have states of their own.
    pub own: Option<Own<'g>>,
    /// Tokens of a page, and rows of the pool.
    pub page: u32,
    pub pool: usize,
    pub kv: DType,
}

/// Where rows find the states that their sequences have in slots, whatever their length.
pub struct Own<'g> {
    /// How many slots there are.
    pub slots: usize,
    /// The slots of the step's sequences, and which of these a row is of: u32.
    pub active: Tensor<'g>,
    pub owners: Tensor<'g>,
    /// The row before each row, the one before that, and so on, counted through the rows that slots keep and the step's; beyond all
    /// where there is none.
    pub earlier: Vec<Tensor<'g>>,
    /// The rows that the step's sequences keep, counted the same way, and where they are kept.
    pub kept: Tensor<'g>,
    pub kept_at: Tensor<'g>,
}

impl<'g> Own<'g> {
    fn inputs(g: &'g GraphBuilder, s: &PagedShape, rows: usize) -> Own<'g> {
        let (step, sequences) = (s.rows, Dim::from(s.active()));
        let of = |name: &str, n: Dim| g.input(name, DType::U32, vec![n]);
        let earlier = match rows {
            0 => vec![],
            n => {
                let all = g.input("own_earlier", DType::U32, vec![n.into(), step]);
                (0..n).map(|i| all.slice(0, i as i64, 1).reshape(vec![step])).collect()
            }
        };
        let kept = |name: &str| if rows > 0 { of(name, sequences * rows as i64) } else { g.constant(0.0) };
        let (active, owners) = (of("active", sequences), of("owners", step));
        Own { slots: s.sequences, active, owners, earlier, kept: kept("kept"), kept_at: kept("kept_at") }
    }
}

impl<'g> Pages<'g> {
    fn inputs(g: &'g GraphBuilder, s: &PagedShape, (back, own): (usize, Option<usize>)) -> Pages<'g> {
        let rows = s.rows;
        let of_rows = |name: &str| g.input(name, DType::U32, vec![rows]);
        let earlier = match back {
            0 => vec![],
            n => {
                let all = g.input("earlier", DType::U32, vec![n.into(), rows]);
                (0..n).map(|i| all.slice(0, i as i64, 1).reshape(vec![rows])).collect()
            }
        };
        Pages {
            tables: g.input("tables", DType::U32, [s.sequences, s.per_sequence()]),
            sequences: of_rows("sequences"),
            positions: of_rows("positions"),
            places: of_rows("places"),
            earlier,
            own: own.map(|rows| Own::inputs(g, s, rows)),
            page: s.page as u32,
            pool: s.page * s.pages,
            kv: s.kv,
        }
    }

    /// Pools of keys and values as attention reads them.
    pub fn of(&self, keys: Tensor<'g>, values: Tensor<'g>) -> graph::Paged<'g> {
        graph::Paged { keys, values, tables: self.tables, sequences: self.sequences, positions: self.positions }
    }
}

/// The graph of a step over pages.
///
/// Inputs, all u32: `tokens`, `sequences`, `positions` and `places` `[rows]`; `tables` `[sequences, pages of one]`; `outputs`
/// `[outputs]`, the rows whose logits are made; for families that look back otherwise than by attention `earlier` `[tokens back, rows]`;
/// for those whose sequences have states in slots `active` `[sequences of the step]`, `owners` `[rows]`, `own_earlier` `[rows kept, rows]`,
/// `kept` and `kept_at` `[sequences · rows kept]` (see [`Own`]).
/// States: pools `layers.N.k` and `layers.N.v`, `[pages · page, kv_heads · head]` of type `kv`. Output: `logits` f32 `[outputs, vocab]`.
///
/// # Errors
/// Tensors that are missing or have other shapes; a context that cannot be planned.
pub fn paged_step(family: &dyn Decoder, weights: &dyn Weights, model: &str, step: &PagedShape) -> Result<Graph> {
    let (s, g) = (&family.common().sizes, GraphBuilder::new());
    g.at("embedding");
    let pages = Pages::inputs(&g, step, (family.looks_back(), family.keeps()));
    let tokens = g.input("tokens", DType::U32, vec![step.rows]);
    let outputs = g.input("outputs", DType::U32, vec![step.outputs]);
    let positions = pages.positions;
    let mut b = Blocks {
        g: &g,
        rows: Rows::Paged { rows: step.rows },
        pages: Some(pages),
        origin: Origin::File(weights),
        names: &family.common().names,
        model,
        sequence_parallel: false,
        angles: vec![],
    };
    let table = b.vocabulary("token_embd", [s.vocab, s.width]);
    let x = family.embedded(&b, b.residual(table.gather(tokens)));
    b.angles = angles(family.ropes(), &b, step.context);
    b.angles.iter_mut().for_each(|(cos, sin)| (*cos, *sin) = (cos.gather(positions), sin.gather(positions)));
    let x = layers(family, &b, x).gather(outputs);
    g.output("logits", head(family, &b, x, family.common().tied.then_some(table)));
    g.finish()
}
