//! A writer of GGUF files, made so that each part of a valid file can be broken by itself.

/// A metadata value as it is written; `Raw` is a type number and bytes that may be nonsense.
#[derive(Debug, Clone)]
pub enum Meta {
    U32(u32),
    U64(u64),
    F32(f32),
    Bool(u8),
    Text(String),
    Texts(Vec<String>),
    Ints(Vec<i32>),
    Floats(Vec<f32>),
    Raw(u32, Vec<u8>),
}

/// A tensor as it is written; dims innermost first, as the format has them.
#[derive(Debug, Clone)]
pub struct RawTensor {
    pub name: String,
    pub dims: Vec<u64>,
    /// ggml's number: 0 f32, 1 f16, 2 q4_0, 3 q4_1, 8 q8_0, 12 q4_k, 30 bf16.
    pub ty: u32,
    pub data: Vec<u8>,
    /// Written in place of the true offset.
    pub offset: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct GgufFile {
    pub magic: [u8; 4],
    pub version: u32,
    pub meta: Vec<(String, Meta)>,
    pub tensors: Vec<RawTensor>,
    /// Where tensors really lie; metadata may say otherwise.
    pub align: usize,
    /// Written in place of the true counts.
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
}

impl Default for GgufFile {
    fn default() -> Self {
        GgufFile {
            magic: *b"GGUF",
            version: 3,
            meta: vec![],
            tensors: vec![],
            align: 32,
            tensor_count: None,
            key_count: None,
        }
    }
}

pub fn text(out: &mut Vec<u8>, s: &str) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s.as_bytes());
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let array = |out: &mut Vec<u8>, ty: u32, n: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(ty.to_le_bytes());
            out.extend((n as u64).to_le_bytes());
        };
        let plain = |out: &mut Vec<u8>, ty: u32, bytes: &[u8]| {
            out.extend(ty.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Meta::U32(n) => plain(out, 4, &n.to_le_bytes()),
            Meta::F32(x) => plain(out, 6, &x.to_le_bytes()),
            Meta::Bool(b) => plain(out, 7, &[*b]),
            Meta::U64(n) => plain(out, 10, &n.to_le_bytes()),
            Meta::Raw(ty, bytes) => plain(out, *ty, bytes),
            Meta::Text(s) => {
                out.extend(8u32.to_le_bytes());
                text(out, s);
            }
            Meta::Texts(v) => {
                array(out, 8, v.len());
                v.iter().for_each(|s| text(out, s));
            }
            Meta::Ints(v) => {
                array(out, 5, v.len());
                v.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Meta::Floats(v) => {
                array(out, 6, v.len());
                v.iter().for_each(|x| out.extend(x.to_le_bytes()));
            }
        }
    }
}

impl GgufFile {
    pub fn set(&mut self, key: &str, value: Meta) {
        match self.meta.iter_mut().find(|(k, _)| k == key) {
            Some(slot) => slot.1 = value,
            None => self.meta.push((key.into(), value)),
        }
    }
    pub fn remove(&mut self, key: &str) {
        self.meta.retain(|(k, _)| k != key);
    }
    pub fn tensor(&mut self, name: &str) -> &mut RawTensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.write().0
    }

    /// The file, and every offset at which one of its parts begins or ends.
    pub fn write(&self) -> (Vec<u8>, Vec<usize>) {
        let (mut out, mut marks) = (self.magic.to_vec(), vec![0, 4, 8, 16, 24]);
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.meta.len() as u64).to_le_bytes());
        for (key, value) in &self.meta {
            let start = out.len();
            text(&mut out, key);
            marks.extend([start + 8, out.len(), out.len() + 4]);
            value.write(&mut out);
            marks.push(out.len());
        }
        let mut at = 0;
        for t in &self.tensors {
            let start = out.len();
            text(&mut out, &t.name);
            marks.extend([start + 8, out.len()]);
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            marks.push(out.len());
            out.extend(t.ty.to_le_bytes());
            out.extend(t.offset.unwrap_or(at as u64).to_le_bytes());
            marks.push(out.len());
            at += t.data.len().next_multiple_of(self.align);
        }
        out.resize(out.len().next_multiple_of(self.align), 0);
        for (i, t) in self.tensors.iter().enumerate() {
            marks.push(out.len());
            out.extend(&t.data);
            if i + 1 < self.tensors.len() {
                out.resize(out.len().next_multiple_of(self.align), 0);
            }
        }
        marks.push(out.len());
        (out, marks)
    }
}
