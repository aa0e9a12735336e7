//! How kernels read a format. The text of every kernel form is made from what stands here, whichever the format.

/// Elements that kernels read together from a matrix of blocks.
pub const RUN: usize = 32;

/// How a kernel reads elements.
pub enum Wgsl {
    /// One by one, at any place.
    Plain(Plain),
    /// Runs of [`RUN`] elements of a block. The text defines
    ///
    /// - `struct Run`: what is loaded of a run, in registers;
    /// - `fn run_at(i: u32, s: vec2<u32>) -> Run`: loads run `i` of the matrix. `b_at(i)` gives the `i`-th sixteen bytes of the
    ///   first plane as `vec4<u32>`; `s_at(s.x + i)` is word `i` of the second plane, `half_at(s.x, i)` its `i`-th f16, and with
    ///   `s.y` those of the third;
    /// - `fn packed(r: Run, j: u32) -> vec2<u32>`: elements 8j to 8j + 7 as eight signed bytes, the first lowest;
    /// - `fn scale(r: Run, j: u32) -> vec2<f32>`: their factor and offset: a value is `byte · scale.x + scale.y`.
    Blocks(Blocks),
}

/// Elements that lie one by one.
pub struct Plain {
    /// The WGSL type in which a binding holds single words, and four elements.
    pub word: &'static str,
    pub four: &'static str,
    /// The expression of element `i` (a name) in its word `w` (a name).
    pub pick: fn(w: &str, i: &str) -> String,
    /// The expression of four elements as `vec4<f32>` from `w`, of type `four`.
    pub widen: fn(w: &str) -> String,
    /// How results are written where they are narrower than a word.
    pub store: Option<Store>,
}

/// How a kernel writes elements of sixteen bits.
pub struct Store {
    /// The expression of `x` (a name) rounded to what the type holds, still an f32.
    pub round: fn(x: &str) -> String,
    /// The expression of a word with two elements that were so rounded, the first lowest.
    pub pack: fn(a: &str, b: &str) -> String,
}

pub struct Blocks {
    pub text: &'static str,
    /// Whether any offset is not zero. Then no byte is negative.
    pub offset: bool,
}
