//! Templates and what fills them.

use crate::base::{Error, Result};
use std::fmt::Write;

/// One WGSL file with holes.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Template {
    pub name: &'static str,
    pub source: &'static str,
}

/// A template with its holes filled and its numbers set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kernel {
    pub template: &'static Template,
    holes: Vec<(&'static str, String)>,
    numbers: Vec<(&'static str, String)>,
}

impl Kernel {
    pub fn new(template: &'static Template) -> Self {
        Kernel { template, holes: vec![], numbers: vec![] }
    }
    /// Fills a hole with WGSL text.
    pub fn hole(mut self, name: &'static str, text: impl Into<String>) -> Self {
        self.holes.push((name, text.into()));
        self
    }
    /// Sets a `u32` module constant.
    pub fn set(mut self, name: &'static str, value: u32) -> Self {
        self.numbers.push((name, format!("{value}u")));
        self
    }
    /// Sets an `f32` module constant.
    pub fn set_f32(mut self, name: &'static str, value: f32) -> Self {
        self.numbers.push((name, format!("{value:?}f")));
        self
    }
    pub fn name(&self) -> &'static str {
        self.template.name
    }
    /// The value of a number that was set, as its WGSL text.
    pub fn number(&self, name: &str) -> Option<&str> {
        self.numbers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    /// Whether a hole is filled.
    pub fn filled(&self, hole: &str) -> bool {
        self.holes.iter().any(|(name, _)| *name == hole)
    }

    /// The filled WGSL. A hole or number that the template does not have is an error.
    pub fn source(&self) -> Result<String> {
        let mut out = String::with_capacity(self.template.source.len() * 2);
        let (mut holes_used, mut numbers_used) = (0, 0);
        let mut lines = self.template.source.lines();
        while let Some(line) = lines.next() {
            let trimmed = line.trim_start();
            if let Some(name) = trimmed.strip_prefix("//{ ") {
                let filling = self.holes.iter().find(|(n, _)| *n == name.trim());
                holes_used += filling.is_some() as usize;
                let mut closed = false;
                for inner in lines.by_ref() {
                    if inner.trim_start().starts_with("//}") {
                        closed = true;
                        break;
                    }
                    if filling.is_none() {
                        let _ = writeln!(out, "{inner}");
                    }
                }
                if !closed {
                    return Err(self.error(format!("hole {name} is not closed by //}}")));
                }
                if let Some((_, text)) = filling {
                    let _ = writeln!(out, "{}", text.trim_end());
                }
            } else if let Some((name, rest)) = const_line(trimmed) {
                match self.numbers.iter().find(|(n, _)| *n == name) {
                    Some((_, value)) => {
                        let kind = rest.split('=').next().unwrap_or_default().trim();
                        let _ = writeln!(out, "const {name}: {kind} = {value};");
                        numbers_used += 1;
                    }
                    None => {
                        let _ = writeln!(out, "{line}");
                    }
                }
            } else {
                let _ = writeln!(out, "{line}");
            }
        }
        if holes_used != self.holes.len() || numbers_used != self.numbers.len() {
            return Err(self.error(format!(
                "filled {holes_used} of {} holes and {numbers_used} of {} numbers: {:?} {:?}",
                self.holes.len(),
                self.numbers.len(),
                self.holes.iter().map(|h| h.0).collect::<Vec<_>>(),
                self.numbers
            )));
        }
        Ok(if out.contains("<f16>") { format!("enable f16;\n{out}") } else { out })
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::op("kernel", self.template.name, what)
    }
}

/// `const NAME: u32 = 4u;` → (`NAME`, `u32 = 4u;`), at module scope (no indentation is checked by the caller).
fn const_line(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("const ")?.split_once(':')?;
    Some((name.trim(), rest.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    static T: Template = Template { name: "t", source: "const N: u32 = 1u;\n//{ f\nfn f() {}\n//}\nfn g() {}\n" };

    #[test]
    fn holes_and_numbers_are_replaced() {
        let k = Kernel::new(&T).set("N", 7).hole("f", "fn f() { g(); }");
        assert_eq!(k.source().unwrap(), "const N: u32 = 7u;\nfn f() { g(); }\nfn g() {}\n");
        assert_eq!(Kernel::new(&T).source().unwrap(), "const N: u32 = 1u;\nfn f() {}\nfn g() {}\n");
    }

    #[test]
    fn an_unknown_hole_or_number_is_an_error() {
        assert!(Kernel::new(&T).hole("h", "").source().is_err());
        assert!(Kernel::new(&T).set("M", 1).source().is_err());
    }
}
