//! Values that a template works with, as Python has them. Nothing in them can be changed but the attributes of a namespace, which
//! may not hold a namespace: so there are no cycles, and every value knows how deep it nests.

use super::tree::{Literal, Macro};
use super::{Fail, Run};
use crate::base::Budget;
use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;

/// The deepest that lists and dicts may nest.
const MAX_DEPTH: u32 = 100;

#[derive(Clone)]
pub enum Value {
    /// What is not there, and what is said where it is used.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
    List(Rc<List>),
    Tuple(Rc<List>),
    Dict(Rc<Dict>),
    Namespace(Rc<RefCell<Vec<(Rc<str>, Value)>>>),
    Macro(Rc<Bound>),
    /// A function by its name.
    Function(&'static str),
    /// A method of a value.
    Method(Rc<(Value, Rc<str>)>),
    Loop(Rc<LoopState>),
}

impl From<&Literal> for Value {
    fn from(literal: &Literal) -> Value {
        match literal {
            Literal::None => Value::None,
            Literal::Bool(b) => Value::Bool(*b),
            Literal::Int(n) => Value::Int(*n),
            Literal::Float(x) => Value::Float(*x),
            Literal::Text(text) => Value::Text(text.clone()),
        }
    }
}

pub struct List {
    pub items: Vec<Value>,
    depth: u32,
    has_namespace: bool,
}

/// Pairs in the order in which they were put in.
pub struct Dict {
    pub pairs: Vec<(Value, Value)>,
    depth: u32,
    has_namespace: bool,
}

/// A macro, and how many scopes it sees.
pub struct Bound {
    pub code: Rc<Macro>,
    pub scopes: usize,
    /// What its body's `caller()` runs.
    pub is_caller: bool,
}

/// What a loop knows of itself.
pub struct LoopState {
    pub items: Rc<List>,
    pub index: Cell<usize>,
    pub depth: usize,
    pub changed: RefCell<Option<Value>>,
    /// The loop's code where it calls itself.
    pub code: Option<Rc<super::tree::For>>,
}

impl Value {
    pub fn text(text: impl Into<Rc<str>>) -> Value {
        Value::Text(text.into())
    }
    pub fn undefined(what: impl Into<Rc<str>>) -> Value {
        Value::Undefined(what.into())
    }
    /// # Errors
    /// Lists that nest too deep or are too long.
    pub fn list(items: Vec<Value>, budget: &Budget) -> Run<Value> {
        List::new(items, budget).map(Value::List)
    }
    pub fn tuple(items: Vec<Value>, budget: &Budget) -> Run<Value> {
        List::new(items, budget).map(Value::Tuple)
    }
    /// A later value of the same key takes the place of an earlier one.
    pub fn dict(pairs: Vec<(Value, Value)>, budget: &Budget) -> Run<Value> {
        budget.make(pairs.len() * 64 + 64)?;
        let mut seen: std::collections::HashMap<String, usize> = Default::default();
        let mut out: Vec<(Value, Value)> = Vec::with_capacity(pairs.len());
        for (key, value) in pairs {
            let name = match &key {
                Value::Text(t) => format!("'{t}"),
                Value::Int(_) | Value::Bool(_) | Value::Float(_) => format!("{:?}", key.number().unwrap_or(0.0)),
                Value::None => "None".into(),
                Value::Tuple(_) => key.repr(budget)?,
                other => return Err(Fail::new(format!("unhashable type: '{}'", other.kind()))),
            };
            budget.make(name.len())?;
            match seen.get(&name) {
                Some(i) => out[*i].1 = value,
                None => {
                    seen.insert(name, out.len());
                    out.push((key, value));
                }
            }
        }
        let all = || out.iter().flat_map(|(k, v)| [k, v]);
        let depth = 1 + all().map(Value::depth).max().unwrap_or(0);
        check_depth(depth)?;
        let has_namespace = all().any(Value::has_namespace);
        Ok(Value::Dict(Rc::new(Dict { pairs: out, depth, has_namespace })))
    }
    fn depth(&self) -> u32 {
        match self {
            Value::List(l) | Value::Tuple(l) => l.depth,
            Value::Dict(d) => d.depth,
            Value::Namespace(_) => 1,
            Value::Method(m) => m.0.depth() + 1,
            Value::Loop(l) => l.items.depth + 1,
            _ => 0,
        }
    }
    pub fn has_namespace(&self) -> bool {
        match self {
            Value::List(l) | Value::Tuple(l) => l.has_namespace,
            Value::Dict(d) => d.has_namespace,
            Value::Namespace(_) => true,
            Value::Method(m) => m.0.has_namespace(),
            Value::Loop(l) => l.items.has_namespace,
            _ => false,
        }
    }
    /// Python's name of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Dict(_) => "dict",
            Value::Namespace(_) => "Namespace",
            Value::Macro(_) => "Macro",
            Value::Function(_) | Value::Method(_) => "function",
            Value::Loop(_) => "LoopContext",
        }
    }
    /// The error of using what is not there.
    pub fn defined(&self) -> Run<&Value> {
        match self {
            Value::Undefined(what) => Err(Fail::new(what.to_string())),
            other => Ok(other),
        }
    }
    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(n) => *n != 0,
            Value::Float(x) => *x != 0.0,
            Value::Text(t) => !t.is_empty(),
            Value::List(l) | Value::Tuple(l) => !l.items.is_empty(),
            Value::Dict(d) => !d.pairs.is_empty(),
            _ => true,
        }
    }
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(t) => Some(t),
            _ => None,
        }
    }
    /// A number, with true as 1.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(*b as u8 as f64),
            Value::Int(n) => Some(*n as f64),
            Value::Float(x) => Some(*x),
            _ => None,
        }
    }
    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Bool(b) => Some(*b as i64),
            Value::Int(n) => Some(*n),
            _ => None,
        }
    }
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Dict(d) => d.pairs.iter().find(|(k, _)| k.as_text() == Some(key)).map(|p| &p.1),
            _ => None,
        }
    }

    /// What a loop over it sees.
    ///
    /// # Errors
    /// What cannot be looped over.
    pub fn items(&self, budget: &Budget) -> Run<Vec<Value>> {
        Ok(match self {
            Value::Undefined(_) => vec![],
            Value::List(l) | Value::Tuple(l) => {
                budget.make(l.items.len() * 16)?;
                l.items.clone()
            }
            Value::Dict(d) => {
                budget.make(d.pairs.len() * 16)?;
                d.pairs.iter().map(|p| p.0.clone()).collect()
            }
            Value::Text(t) => {
                budget.make(t.len() * 32)?;
                t.chars().map(|c| Value::text(c.encode_utf8(&mut [0; 4]) as &str)).collect()
            }
            other => return Err(Fail::new(format!("'{}' object is not iterable", other.kind()))),
        })
    }

    /// As `str()` has it.
    pub fn print(&self, budget: &Budget) -> Run<Rc<str>> {
        match self {
            Value::Text(t) => Ok(t.clone()),
            Value::Undefined(_) => Ok("".into()),
            other => other.repr(budget).map(Into::into),
        }
    }

    /// As `repr()` has it.
    pub fn repr(&self, budget: &Budget) -> Run<String> {
        let mut out = String::new();
        self.write(&mut out, budget)?;
        Ok(out)
    }

    fn write(&self, out: &mut String, budget: &Budget) -> Run<()> {
        let before = out.len();
        match self {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(b) => out.push_str(if *b { "True" } else { "False" }),
            Value::Int(n) => out.push_str(&n.to_string()),
            Value::Float(x) => out.push_str(&float(*x)),
            Value::Text(t) => {
                budget.make(t.len() * 2)?;
                quote(t, out);
            }
            Value::List(l) => write_list(&l.items, ("[", "]"), out, budget)?,
            Value::Tuple(l) if l.items.len() == 1 => write_list(&l.items, ("(", ",)"), out, budget)?,
            Value::Tuple(l) => write_list(&l.items, ("(", ")"), out, budget)?,
            Value::Dict(d) => {
                out.push('{');
                for (i, (k, v)) in d.pairs.iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    k.write(out, budget)?;
                    out.push_str(": ");
                    v.write(out, budget)?;
                }
                out.push('}');
            }
            Value::Namespace(n) => {
                out.push_str("<Namespace {");
                for (i, (k, v)) in n.borrow().iter().enumerate() {
                    out.push_str(if i > 0 { ", " } else { "" });
                    quote(k, out);
                    out.push_str(": ");
                    v.write(out, budget)?;
                }
                out.push_str("}>");
            }
            Value::Macro(m) => {
                out.push_str("<Macro ");
                quote(&m.code.name, out);
                out.push('>');
            }
            Value::Function(name) => out.push_str(&format!("<function {name}>")),
            Value::Method(m) => out.push_str(&format!("<built-in method {}>", m.1)),
            Value::Loop(l) => out.push_str(&format!("<LoopContext {}/{}>", l.index.get() + 1, l.items.items.len())),
        }
        // What stands within is charged where it is written.
        budget.make((out.len() - before).min(64))?;
        budget.work(1)?;
        Ok(budget.fits(out.len())?)
    }

    /// # Errors
    /// Values too large to compare.
    pub fn equals(&self, other: &Value, budget: &Budget) -> Run<bool> {
        budget.work(1)?;
        let lists = |a: &List, b: &List| -> Run<bool> {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (x, y) in a.items.iter().zip(&b.items) {
                if !x.equals(y, budget)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        Ok(match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => {
                budget.work(a.len().min(b.len()) as u64 / 64)?;
                a == b
            }
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => lists(a, b)?,
            (Value::Dict(a), Value::Dict(b)) => {
                if a.pairs.len() != b.pairs.len() {
                    return Ok(false);
                }
                for (k, v) in &a.pairs {
                    match b.find(k, budget)? {
                        Some(w) if v.equals(w, budget)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (a, b) => matches!((a.number(), b.number()), (Some(x), Some(y)) if x == y),
        })
    }

    /// # Errors
    /// Kinds that have no order between them.
    pub fn compare(&self, other: &Value, budget: &Budget) -> Run<Option<Ordering>> {
        budget.work(1)?;
        match (self, other) {
            (Value::Int(a), Value::Int(b)) => return Ok(Some(a.cmp(b))),
            (Value::Text(a), Value::Text(b)) => return Ok(Some(a.cmp(b))),
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
                for (x, y) in a.items.iter().zip(&b.items) {
                    if !x.equals(y, budget)? {
                        return x.compare(y, budget);
                    }
                }
                return Ok(Some(a.items.len().cmp(&b.items.len())));
            }
            _ => {}
        }
        match (self.number(), other.number()) {
            (Some(x), Some(y)) => Ok(x.partial_cmp(&y)),
            _ => {
                self.defined()?;
                other.defined()?;
                Err(Fail::new(format!("'{}' and '{}' have no order", self.kind(), other.kind())))
            }
        }
    }
}

fn check_depth(depth: u32) -> Run<()> {
    match depth {
        0..=MAX_DEPTH => Ok(()),
        _ => Err(Fail::new(format!("nests values deeper than {MAX_DEPTH} levels"))),
    }
}

impl List {
    pub fn new(items: Vec<Value>, budget: &Budget) -> Run<Rc<List>> {
        budget.make(items.len() * 16 + 48)?;
        let depth = 1 + items.iter().map(Value::depth).max().unwrap_or(0);
        check_depth(depth)?;
        let has_namespace = items.iter().any(Value::has_namespace);
        Ok(Rc::new(List { items, depth, has_namespace }))
    }
}

impl Dict {
    pub fn find(&self, key: &Value, budget: &Budget) -> Run<Option<&Value>> {
        budget.work(self.pairs.len() as u64 / 8)?;
        for (k, v) in &self.pairs {
            if k.equals(key, budget)? {
                return Ok(Some(v));
            }
        }
        Ok(None)
    }
}

fn write_list(items: &[Value], (open, close): (&str, &str), out: &mut String, budget: &Budget) -> Run<()> {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        item.write(out, budget)?;
    }
    out.push_str(close);
    Ok(())
}

/// A float as Python prints it: the shortest digits that mean it.
pub fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let shortest = format!("{x:e}");
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if x == 0.0 || (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A text in the quotes that Python's `repr` takes.
fn quote(text: &str, out: &mut String) {
    let q = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(q);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == q => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || (0x7f..0xa1).contains(&(c as u32)) || c == '\u{ad}' => {
                out.push_str(&format!("\\x{:02x}", c as u32))
            }
            c if is_hidden(c) && (c as u32) < 0x10000 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if is_hidden(c) => out.push_str(&format!("\\U{:08x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(q);
}

/// What Python does not print as it is: separators, marks of format, what is not assigned (its common ranges).
fn is_hidden(c: char) -> bool {
    matches!(c as u32, 0x1680 | 0x180e | 0x2000..=0x200f | 0x2028..=0x202f | 0x205f..=0x206f | 0x3000 | 0xe000..=0xf8ff
        | 0xfeff | 0xfff0..=0xfffb | 0xfffe | 0xffff | 0xe0000..=0x10ffff)
}
