//! The one error type. Every message names the op or file, the place and the numbers, and says what to do.

/// What went wrong on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceFault {
    /// No adapter answers, or none matches what was asked for.
    Unavailable,
    /// The device has no memory left for a buffer.
    OutOfMemory,
    /// The device was lost (driver reset, unplugged, destroyed).
    Lost,
    /// The driver or wgpu refused a command: a bug in this crate or in the driver.
    Validation,
    /// A shader did not compile.
    Pipeline,
    /// A size or feature is beyond what the adapter offers.
    Limit,
}

/// Everything that can fail.
///
/// ```
/// use warpweft::{DType, Error, GraphBuilder};
///
/// let g = GraphBuilder::new();
/// let (x, y) = (g.input("x", DType::F32, [2, 3]), g.input("y", DType::F32, [2, 4]));
/// g.output("sum", x + y);
/// let error = g.finish().unwrap_err();
/// assert!(matches!(&error, Error::Op { op, .. } if op == "add"));
/// assert_eq!(error.to_string(), "add \"add(x, y)\": shapes [2, 3] and [2, 4] do not broadcast");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An op refused its operands: `matmul "layers.3.q": inner dimensions differ, 4096 and 4095`.
    #[error("{op} \"{node}\": {what}")]
    Op {
        /// The op's name.
        op: String,
        /// Where it stands in the graph.
        node: String,
        /// What is wrong.
        what: String,
    },
    /// A file is not what it should be: `model.gguf: tensor "x": ends at byte 12, the file has 10`.
    #[error("{path}: {what}")]
    File {
        /// The file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// A model cannot be built from what its file says.
    #[error("model {model}: {what}")]
    Model {
        /// The model's name.
        model: String,
        /// What is wrong.
        what: String,
    },
    /// A device failed or cannot do what was asked.
    #[error("{adapter}: {what}")]
    Device {
        /// The kind of fault.
        fault: DeviceFault,
        /// The device's name.
        adapter: String,
        /// What is wrong.
        what: String,
    },
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A value became NaN or infinite (only with numerics checks on).
    #[error("{op} \"{}\": element {index} is {value}, the first that is not finite", plain(node, NAME))]
    NotFinite {
        /// The op that made it.
        op: String,
        /// Where that stands in the graph.
        node: String,
        /// The element's place, row-major.
        index: usize,
        /// What it is.
        value: String,
    },
    /// As many requests wait as an engine lets wait.
    #[error("{waiting} requests wait already: try again later")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// A request's deadline passed before it was answered.
    #[error("the deadline passed")]
    Deadline,
    /// An engine takes no requests (any more): it loads, drains, or has failed.
    #[error("{0}")]
    Closed(String),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What an op refused: its name, where it stands in the graph, and why.
    pub fn op(op: &str, node: &str, what: impl Into<String>) -> Self {
        Error::Op { op: op.into(), node: plain(node, NAME), what: plain(&what.into(), MESSAGE) }
    }
    /// What is wrong with a file.
    pub fn file(path: impl AsRef<std::path::Path>, what: impl Into<String>) -> Self {
        Error::File { path: plain(&path.as_ref().display().to_string(), PATH), what: plain(&what.into(), MESSAGE) }
    }
    /// Why a model cannot be built.
    pub fn model(model: &str, what: impl Into<String>) -> Self {
        Error::Model { model: plain(model, NAME), what: plain(&what.into(), MESSAGE) }
    }
    /// What a device could not do.
    pub fn device(fault: DeviceFault, adapter: &str, what: impl Into<String>) -> Self {
        Error::Device { fault, adapter: plain(adapter, NAME), what: plain(&what.into(), MESSAGE) }
    }
    /// What was asked for that cannot be.
    pub fn usage(what: impl Into<String>) -> Self {
        Error::Usage(plain(&what.into(), MESSAGE))
    }
    /// Why an engine takes no requests.
    pub fn closed(what: impl Into<String>) -> Self {
        Error::Closed(plain(&what.into(), MESSAGE))
    }
    /// The same error told of another node: graph builders know the name, shape rules do not.
    pub fn at_node(self, name: &str) -> Self {
        match self {
            Error::Op { op, what, node } if node.is_empty() => Error::Op { op, node: plain(name, NAME), what },
            other => other,
        }
    }
}

/// The most letters of a name, a path and a message: what a file wrote may be as long as the file.
const NAME: usize = 160;
const PATH: usize = 1024;
const MESSAGE: usize = 1200;

/// A text that somebody else wrote, as one line that is safe to print: control characters, terminal codes and marks that
/// turn the direction of writing are escaped, white space is one space, and the middle of what is then longer than `most` letters
/// is left out.
pub fn plain(text: &str, most: usize) -> String {
    // No letter takes more than four bytes: of a longer text only the ends are looked at.
    let (out, end) = match text.len() <= 4 * most {
        true => (escaped(text), None),
        false => {
            let from = text.char_indices().rev().take(most).last().map_or(0, |c| c.0);
            let to = text.char_indices().nth(most).map_or(text.len(), |c| c.0);
            (escaped(&text[..to]), Some(escaped(&text[from..])))
        }
    };
    let count = out.chars().count();
    if end.is_none() && count <= most {
        return out;
    }
    // The last third, and before it as much as fits.
    let (tail, end) = (most / 3, end.as_ref().unwrap_or(&out));
    let skipped = end.chars().count().saturating_sub(tail);
    out.chars().take(most - tail).chain(['…']).chain(end.chars().skip(skipped)).collect()
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut broken = false;
    for c in text.chars() {
        match c {
            ' ' if broken => continue,
            '\n' | '\r' | '\t' => {
                if !broken {
                    out.push(' ');
                }
                broken = true;
                continue;
            }
            c if c.is_control() || is_direction(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
        broken = false;
    }
    out.truncate(out.trim_end().len());
    out
}

/// Marks that reorder or hide what stands beside them on a terminal, and separators of lines.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_without_terminal_codes() {
        let e = Error::file("a\nb", "tensor \"\u{1b}[31mred\" is\n   missing\n");
        assert_eq!(e.to_string(), "a b: tensor \"\\u{1b}[31mred\" is missing");
    }
    #[test]
    fn what_a_file_wrote_is_cut_in_its_middle() {
        for n in [10, 1199, 1200, 1201, 5000, 1 << 20] {
            let long: String = (0..n).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
            let said = Error::usage(long.clone()).to_string();
            assert!(said.chars().count() <= MESSAGE + 1, "{n}");
            assert_eq!(said.contains('…'), n > MESSAGE, "{n}");
            assert!(said.ends_with(&long[n - 9..]) && said.starts_with(&long[..9]), "{n}");
        }
        let wide = "é".repeat(3000);
        assert!(Error::file(&wide, &*wide).to_string().chars().count() < PATH + MESSAGE + 10);
        assert_eq!(plain("a\u{202e}b\u{85}", 80), "a\\u{202e}b\\u{85}");
        // What is escaped counts as it is printed.
        for n in [1, 100, 1200, 5000, 1 << 20] {
            for c in ["\u{0}", "\u{2066}", "é", "\n a"] {
                let said = Error::usage(c.repeat(n)).to_string();
                assert!(said.chars().count() <= MESSAGE + 1, "{n} of {c:?}");
            }
        }
    }
}
