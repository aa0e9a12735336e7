//! What an op needs to know beside its operands.

use super::collective::Collective;
use super::window::Window;
use crate::base::{DType, Dim, Shape};
use std::fmt;

/// Attributes of a node. Each op takes the one form that its docs name.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Attrs {
    #[default]
    None,
    /// Axes to reduce over; kept as 1 or dropped.
    Reduce {
        axes: Vec<usize>,
        keep: bool,
    },
    Axis(usize),
    Perm(Vec<usize>),
    Shape(Shape),
    /// `len` indices from `start`, `step` apart.
    Slice {
        axis: usize,
        start: Dim,
        len: Dim,
        step: u32,
    },
    Pad {
        axis: usize,
        before: usize,
        after: usize,
        value: f32,
    },
    Cast(DType),
    /// Whether the last two axes of the left, of the right operand are swapped.
    Matmul {
        ta: bool,
        tb: bool,
    },
    Norm {
        eps: f32,
    },
    Rope(RopeLayout),
    Attention(Attention),
    /// Attention over pages of so many keys.
    Pages {
        /// Scale, window, cap and sinks.
        how: Attention,
        /// Keys of a page.
        page: u32,
    },
    /// Where in axis 0 of the state the new rows go.
    Append {
        at: Dim,
    },
    /// Rows of the result.
    Rows(Dim),
    Collective(Box<Collective>),
    Window(Box<Window>),
    /// `start + index along axis`, of this shape.
    Iota {
        shape: Shape,
        axis: usize,
        start: Dim,
        dtype: DType,
    },
}

/// Which two elements of a head RoPE turns together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub enum RopeLayout {
    /// Element `i` with element `i + d/2` (GPT-NeoX, Hugging Face).
    Half,
    /// Element `2i` with element `2i + 1` (GPT-J, GGUF llama files).
    Interleaved,
}

/// How attention scores are scaled and masked.
///
/// ```
/// use warpweft::{Attention, DType, GraphBuilder};
///
/// let g = GraphBuilder::new();
/// let [q, k, v] = ["q", "k", "v"].map(|name| g.input(name, DType::F32, [2, 5, 4, 16]));
/// g.output("y", q.attention(k, v, None, Attention::scaled(0.25).causal(0).window(3)));
/// g.finish()?;
/// # Ok::<(), warpweft::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(not(feature = "internals"), non_exhaustive)]
pub struct Attention {
    /// Scores are multiplied by this: usually `1/√d`.
    pub scale: f32,
    /// Where set, query `s` sees only keys `t ≤ past + s`; the value is `past`.
    pub causal: Option<Dim>,
    /// Where set (and causal), query `s` sees only keys `t > past + s − window`.
    pub window: Option<u32>,
    /// Where set, scores are bent to within ±cap before masks: `cap · tanh(score / cap)` (Gemma Team, 2024).
    pub softcap: Option<f32>,
    /// Whether the last operand has a score for each head that takes part in the softmax and adds nothing (attention
    /// sinks: Xiao et al., 2024).
    pub sinks: bool,
}

impl Attention {
    /// Every key seen by every query, scores multiplied by `scale`.
    pub const fn scaled(scale: f32) -> Attention {
        Attention { scale, causal: None, window: None, softcap: None, sinks: false }
    }
    /// Lets query `s` see only keys `t ≤ past + s`.
    #[must_use]
    pub fn causal(self, past: impl Into<Dim>) -> Attention {
        Attention { causal: Some(past.into()), ..self }
    }
    /// Lets query `s` see only the last `window` of the keys that a causal mask lets through.
    #[must_use]
    pub fn window(self, window: u32) -> Attention {
        Attention { window: Some(window), ..self }
    }
    /// Bends scores to within ±`cap` before masks.
    #[must_use]
    pub fn softcap(self, cap: f32) -> Attention {
        Attention { softcap: Some(cap), ..self }
    }
}

impl Attrs {
    /// Dimensions that say where, not how large: they are no part of any operand's type.
    pub fn places(&self) -> Option<Dim> {
        match self {
            Attrs::Slice { start, .. } | Attrs::Iota { start, .. } => Some(*start),
            Attrs::Append { at } => Some(*at),
            Attrs::Attention(a) => a.causal,
            _ => None,
        }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "scale={}", self.scale)?;
        if let Some(past) = self.causal {
            write!(f, " causal past={past}")?;
        }
        self.window.map_or(Ok(()), |w| write!(f, " window={w}"))?;
        self.softcap.map_or(Ok(()), |c| write!(f, " softcap={c}"))?;
        if self.sinks { f.write_str(" sinks") } else { Ok(()) }
    }
}

impl fmt::Display for Attrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attrs::None => Ok(()),
            Attrs::Reduce { axes, keep } => write!(f, "axes={axes:?}{}", if *keep { " keep" } else { "" }),
            Attrs::Axis(a) => write!(f, "axis={a}"),
            Attrs::Perm(p) => write!(f, "perm={p:?}"),
            Attrs::Shape(s) => write!(f, "shape={s}"),
            Attrs::Slice { axis, start, len, step: 1 } => write!(f, "axis={axis} start={start} len={len}"),
            Attrs::Slice { axis, start, len, step } => write!(f, "axis={axis} start={start} len={len} step={step}"),
            Attrs::Pad { axis, before, after, value } => {
                write!(f, "axis={axis} before={before} after={after} value={value}")
            }
            Attrs::Cast(d) => write!(f, "to={d}"),
            Attrs::Matmul { ta, tb } => write!(f, "ta={ta} tb={tb}"),
            Attrs::Norm { eps } => write!(f, "eps={eps:e}"),
            Attrs::Rope(l) => write!(f, "layout={l:?}"),
            Attrs::Attention(a) => write!(f, "{a}"),
            Attrs::Pages { how, page } => write!(f, "{how} page={page}"),
            Attrs::Append { at } => write!(f, "at={at}"),
            Attrs::Rows(n) => write!(f, "rows={n}"),
            Attrs::Collective(c) => write!(f, "{c}"),
            Attrs::Window(w) => write!(f, "{w}"),
            Attrs::Iota { shape, axis, start, dtype } => write!(f, "{dtype}{shape} axis={axis} start={start}"),
        }
    }
}
