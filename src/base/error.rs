//! The one error type. Every message names the op or file, the place and the numbers, and says what to do.

/// What went wrong on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// An op refused its operands: `matmul "layers.3.q": inner dimensions differ, 4096 and 4095`.
    #[error("{op} \"{node}\": {what}")]
    Op { op: String, node: String, what: String },
    /// A file is not what it should be: `model.gguf: tensor "x": ends at byte 12, the file has 10`.
    #[error("{path}: {what}")]
    File { path: String, what: String },
    /// A model cannot be built from what its file says.
    #[error("model {model}: {what}")]
    Model { model: String, what: String },
    /// A device failed or cannot do what was asked.
    #[error("{adapter}: {what}")]
    Device { fault: DeviceFault, adapter: String, what: String },
    /// The caller asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A value became NaN or infinite (only with numerics checks on).
    #[error("{op} \"{node}\": element {index} is {value}, the first that is not finite")]
    NotFinite { op: String, node: String, index: usize, value: String },
    /// As many requests wait as an engine lets wait.
    #[error("{waiting} requests wait already: try again later")]
    Busy { waiting: usize },
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
    pub fn op(op: &str, node: &str, what: impl Into<String>) -> Self {
        Error::Op { op: op.into(), node: one_line(node), what: one_line(&what.into()) }
    }
    pub fn file(path: impl AsRef<std::path::Path>, what: impl Into<String>) -> Self {
        Error::File { path: one_line(&path.as_ref().display().to_string()), what: one_line(&what.into()) }
    }
    pub fn model(model: &str, what: impl Into<String>) -> Self {
        Error::Model { model: one_line(model), what: one_line(&what.into()) }
    }
    pub fn device(fault: DeviceFault, adapter: &str, what: impl Into<String>) -> Self {
        Error::Device { fault, adapter: one_line(adapter), what: one_line(&what.into()) }
    }
    pub fn usage(what: impl Into<String>) -> Self {
        Error::Usage(one_line(&what.into()))
    }
    pub fn closed(what: impl Into<String>) -> Self {
        Error::Closed(one_line(&what.into()))
    }
    /// The same error told of another node: graph builders know the name, shape rules do not.
    pub fn at_node(self, name: &str) -> Self {
        match self {
            Error::Op { op, what, node } if node.is_empty() => Error::Op { op, node: name.into(), what },
            other => other,
        }
    }
}

/// Names in files and messages of drivers may hold line breaks and terminal codes: a message is one line of plain text.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut broken = false;
    for c in text.chars() {
        match c {
            ' ' if broken => {}
            '\n' | '\r' | '\t' => {
                if !broken {
                    out.push(' ');
                }
                broken = true;
                continue;
            }
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        broken = broken && c == ' ';
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_one_line_without_terminal_codes() {
        let e = Error::file("a\nb", "tensor \"\u{1b}[31mred\" is\n   missing\n");
        assert_eq!(e.to_string(), "a b: tensor \"\\u{1b}[31mred\" is missing");
    }
}
