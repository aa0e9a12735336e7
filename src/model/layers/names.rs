//! What tensors are called. Layers ask for parts by the names that GGUF gives them; a family's table says what model
//! folders call them.

/// The names of one file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Names {
    gguf: bool,
    /// What stands before every name but the head's in a model folder: `model.` mostly.
    root: String,
    /// What stands before a layer's number.
    layers: &'static str,
    /// Part → path in a model folder; the first entry counts. A path that begins with `/` stands outside of the root.
    table: Vec<(&'static str, &'static str)>,
    /// Parts that are rows of another part's matrix.
    fused: Vec<Fused>,
    /// Matrices of layers lie by columns (Conv1D).
    pub transposed: bool,
    /// Weights of norms are stored less one.
    pub less_one: bool,
    /// Parts that GGUF files of the family call otherwise: part → name.
    pub gguf_names: Vec<(&'static str, &'static str)>,
    /// Experts of a layer, which model folders number with a `*` in their path.
    pub experts: usize,
}

/// Rows `from .. to` of a matrix that holds several parts.
#[derive(Debug, Clone, PartialEq)]
struct Fused {
    part: &'static str,
    of: &'static str,
    from: usize,
    to: usize,
    /// Rows of a block, where these are of every block of the matrix.
    every: Option<usize>,
}

/// Parts of llama and its kin in model folders.
const COMMON: &[(&str, &str)] = &[
    ("token_embd", "embed_tokens"),
    ("output_norm", "norm"),
    ("output", "/lm_head"),
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

impl Names {
    /// `own` are the parts that the family calls otherwise than llama does.
    pub fn new(gguf: bool, own: &[(&'static str, &'static str)]) -> Names {
        let table = own.iter().chain(COMMON).copied().collect();
        Names { gguf, root: "model.".into(), layers: "layers.", table, ..Names::default() }
    }
    /// Other words before the names of the model's parts and before a layer's number.
    pub fn under(self, root: &str, layers: &'static str) -> Names {
        Names { root: root.into(), layers, ..self }
    }
    /// Without the root, where the file has names as of the model alone, without a head.
    pub fn found(self, has: impl Fn(&str) -> bool) -> Names {
        let table = self.tensor(None, "token_embd", "weight");
        let alone = table.strip_prefix(&self.root).is_some_and(|name| !has(&table) && has(name));
        if alone && !self.gguf { Names { root: String::new(), ..self } } else { self }
    }
    /// Parts, and how many rows each has, one behind another in the matrix `of`.
    pub fn with_fused(mut self, of: &'static str, parts: &[(&'static str, usize)]) -> Names {
        let mut from = 0;
        for (part, rows) in parts {
            self.fused.push(Fused { part, of, from, to: from + rows, every: None });
            from += rows;
        }
        self
    }
    /// Parts, and how many rows of each head they have, one behind another in each head's block of the matrix `of`.
    pub fn with_heads(mut self, of: &'static str, parts: &[(&'static str, usize)]) -> Names {
        let (mut from, size) = (0, parts.iter().map(|p| p.1).sum());
        for (part, rows) in parts {
            self.fused.push(Fused { part, of, from, to: from + rows, every: Some(size) });
            from += rows;
        }
        self
    }
    pub fn is_gguf(&self) -> bool {
        self.gguf
    }

    /// The name of a part's tensor, of a layer or of the model; `kind` is `weight` or `bias`. Rows of a matrix, columns and
    /// norms less one are written as [`derived`](crate::model::derived) reads them.
    pub fn tensor(&self, layer: Option<usize>, part: &str, kind: &str) -> String {
        match self.fused.iter().find(|f| f.part == part) {
            Some(f) => {
                let every = f.every.map_or(String::new(), |n| format!("/{n}"));
                format!("rows({}..{}{every}, {})", f.from, f.to, self.stored(layer, f.of, kind))
            }
            None => self.stored(layer, part, kind),
        }
    }

    fn stored(&self, layer: Option<usize>, part: &str, kind: &str) -> String {
        let name = self.plain(layer, part, kind);
        let norm = part.ends_with("norm");
        match (self.gguf, kind == "weight") {
            (true, true) if part.ends_with("_exps") || matches!(part, "attn_k_b" | "attn_v_b") => {
                format!("flat({name})")
            }
            (false, true) if name.contains('*') => format!("stack({}, {name})", self.experts),
            (false, true) if norm && self.less_one => format!("plus_one({name})"),
            (false, true) if !norm && layer.is_some() && self.transposed => format!("transpose({name})"),
            _ => name,
        }
    }

    fn plain(&self, layer: Option<usize>, part: &str, kind: &str) -> String {
        let kind = if kind.is_empty() { String::new() } else { format!(".{kind}") };
        if self.gguf {
            let part = self.gguf_names.iter().find(|n| n.0 == part).map_or(part, |n| n.1);
            return match layer {
                Some(n) => format!("blk.{n}.{part}{kind}"),
                None => format!("{part}{kind}"),
            };
        }
        let path = self.table.iter().find(|t| t.0 == part).map_or(part, |t| t.1);
        // A part that the file holds in another form: `form(… [path])`, whose bias has its own ending.
        if let Some((form, path)) = path.split_once('[') {
            let (path, bias) = (path.trim_end_matches("])"), if kind == ".bias" { "_bias" } else { "" });
            return format!("{form}{}{}{}.{path}{bias})", self.root, self.layers, layer.unwrap_or(0));
        }
        match (layer, path.strip_prefix('/')) {
            (_, Some(path)) => format!("{path}{kind}"),
            (Some(n), None) => format!("{}{}{n}.{path}{kind}", self.root, self.layers),
            (None, None) => format!("{}{path}{kind}", self.root),
        }
    }
}
