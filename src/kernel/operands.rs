//! The forms of products, and how their right operand lies in memory and is read.

use crate::base::{DType, TEXELS};
use crate::format::{Plain, Planes, Wgsl};
use std::fmt::Write;

/// How the work is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Tiles of both operands in workgroup memory, register tiles over them; any strides and sizes.
    Tiled,
    /// A register tile an invocation, no barriers: what wins where shaders run on a CPU.
    Rows,
    /// A workgroup for a few outputs, lanes along k: few rows of the left operand on a GPU.
    Vector,
    /// The same with sums over subgroups, where the device has them.
    Subgroup,
}

/// How the right operand lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Right {
    pub dtype: DType,
    /// Rows of k elements, one an output column, as weights are; else columns of n.
    pub rows: bool,
    /// In the texels of a texture, sixteen bytes each; else in a storage buffer.
    pub texels: bool,
}

impl Right {
    /// How the elements are read.
    pub(super) fn wgsl(self) -> &'static Wgsl {
        // A product's operands are floats: the op table refuses others.
        self.dtype.format().float().map_or(&F32_WGSL, |f| &f.wgsl)
    }

    /// The type of the elements of `b` and, where there are planes beside the first, of those.
    pub fn elements(self, form: Form) -> (&'static str, Option<&'static str>) {
        match (self.wgsl(), form) {
            (Wgsl::Plain(p), Form::Tiled) => (p.word, None),
            (Wgsl::Plain(p), _) => (p.four, None),
            (Wgsl::Blocks(_), _) => ("vec4<u32>", (Planes::count(self.dtype) > 1).then_some("u32")),
        }
    }

    /// Functions that all forms load it by: `b_at(i)`, element `i` of the binding, and what the format makes of it: of plain
    /// types `four(i)` or, in the tiled form, `plain_at(i)`; of blocks what [`Wgsl::Blocks`] says, and `value(r, j, i)`.
    pub fn access(self, form: Form) -> String {
        let mut t = self.access_as(self.elements(form));
        match self.wgsl() {
            Wgsl::Plain(p) if form == Form::Tiled => {
                let per_word = 4 / self.dtype.block_bytes();
                let pick = (p.pick)("w", "i");
                let _ = writeln!(t, "fn plain_at(i: u32) -> f32 {{ let w = b_at(i / {per_word}u); return {pick}; }}");
            }
            Wgsl::Plain(p) => {
                let widen = (p.widen)("w");
                let _ = writeln!(t, "fn four(i: u32) -> vec4<f32> {{ let w = b_at(i); return {widen}; }}");
            }
            Wgsl::Blocks(_) => {}
        }
        t
    }

    /// `b_at(i)` for elements of these types, and what the format says of blocks.
    pub fn access_as(self, (element, beside): (&'static str, Option<&'static str>)) -> String {
        let load = match (self.texels, element) {
            (false, _) => "return b[i];",
            (true, "vec4<f32>") => "return bitcast<vec4<f32>>(texel(i));",
            (true, "vec4<u32>") => "return texel(i);",
            (true, "vec2<u32>") => "let t = texel(i / 2u); return select(t.xy, t.zw, (i & 1u) == 1u);",
            (true, "f32") => "return bitcast<f32>(texel(i / 4u)[i % 4u]);",
            (true, _) => "return texel(i / 4u)[i % 4u];",
        };
        let mut t = String::new();
        if self.texels {
            let _ = writeln!(
                t,
                "fn texel(i: u32) -> vec4<u32> {{ return textureLoad(b, vec2<u32>(i % {TEXELS}u, i / {TEXELS}u), 0); }}"
            );
        }
        let _ = writeln!(t, "fn b_at(i: u32) -> {element} {{ {load} }}");
        if let Wgsl::Blocks(blocks) = self.wgsl() {
            if beside.is_some() {
                let word = if self.texels { "texel(i / 4u)[i % 4u]" } else { "s[i]" };
                let _ = writeln!(t, "fn s_at(i: u32) -> u32 {{ return {word}; }}");
                t += HALF_AT;
            }
            t += blocks.text;
            t += VALUE;
        }
        t
    }

    /// Whether blocks have offsets beside factors, and no byte of theirs is negative.
    pub(super) fn offset(self) -> bool {
        matches!(self.wgsl(), Wgsl::Blocks(b) if b.offset)
    }
}

/// How plain words are read, where a type has no floats.
static F32_WGSL: Wgsl = Wgsl::Plain(Plain {
    word: "f32",
    four: "vec4<f32>",
    pick: |w, _| w.to_string(),
    widen: |w| w.to_string(),
    store: None,
});

/// The `i`-th f16 of a plane that begins at word `s`.
const HALF_AT: &str = "fn half_at(s: u32, i: u32) -> f32 {
    let pair = unpack2x16float(s_at(s + (i >> 1u)));
    return select(pair.x, pair.y, (i & 1u) == 1u);
}
";

/// Element `i` of those that `packed(r, j)` gives.
const VALUE: &str = "fn value(r: Run, j: u32, i: u32) -> f32 {
    let q = packed(r, j);
    let s = scale(r, j);
    let word = bitcast<i32>(select(q.x, q.y, i > 3u));
    return f32(extractBits(word, 8u * (i & 3u), 8u)) * s.x + s.y;
}
";
