//! Runs a template that nobody has read within bounds: of steps (the library's fuel), of time, and of memory, which
//! the library does not bound. `{% set x = x ~ x %}` sixty times is ten steps a line and 2⁶⁰ bytes.
//!
//! A template is compiled by the library; then every instruction that makes text or lists out of others is replaced by
//! a call that first looks at how much comes out. Instructions are replaced one by one, so jumps stay right.

use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, Token, Vm, WhitespaceConfig, make_string_output,
    tokenize,
};
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, context, escape_formatter};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
#[cfg(not(target_arch = "wasm32"))]
use std::{sync::mpsc, time::Duration};

/// Steps, and bytes of plain text between tags that they may write in all.
const FUEL: u64 = 1_000_000;
const MAX_RAW: u64 = 256 << 20;
/// Bytes of one value with all that is in it, and of all values that are made.
pub(super) const MAX_VALUE: usize = 16 << 20;
const MAX_TOTAL: usize = 256 << 20;
/// The deepest that what is looked at may nest. Values that nest deeper can be made, a step a level, and are dropped
/// level by level: that is what the stack is for.
const MAX_DEPTH: usize = 64;
#[cfg(not(target_arch = "wasm32"))]
const STACK: usize = 256 << 20;
#[cfg(not(target_arch = "wasm32"))]
const PATIENCE: Duration = Duration::from_secs(5);

/// Filters that make no more than a few times of what they are given; `replace`, `join`, `indent` and `tojson` are
/// looked at. The library's others are not there.
const FILTERS: &[(&str, &str)] = &[
    ("safe", "|safe"),
    ("escape", "|escape"),
    ("e", "|e"),
    ("lower", "|lower"),
    ("upper", "|upper"),
    ("title", "|title"),
    ("capitalize", "|capitalize"),
    ("replace", "|replace"),
    ("length", "|length"),
    ("count", "|count"),
    ("dictsort", "|dictsort"),
    ("items", "|items"),
    ("reverse", "|reverse"),
    ("trim", "|trim"),
    ("join", "|join"),
    ("split", "|split"),
    ("lines", "|lines"),
    ("default", "|default"),
    ("d", "|d"),
    ("round", "|round"),
    ("abs", "|abs"),
    ("int", "|int"),
    ("float", "|float"),
    ("attr", "|attr"),
    ("first", "|first"),
    ("last", "|last"),
    ("min", "|min"),
    ("max", "|max"),
    ("sort", "|sort"),
    ("list", "|list"),
    ("string", "|string"),
    ("bool", "|bool"),
    ("sum", "|sum"),
    ("indent", "|indent"),
    ("select", "|select"),
    ("reject", "|reject"),
    ("selectattr", "|selectattr"),
    ("rejectattr", "|rejectattr"),
    ("map", "|map"),
    ("groupby", "|groupby"),
    ("unique", "|unique"),
    ("tojson", "|tojson"),
];
const REFUSED: &[&str] = &["format", "batch", "slice", "pprint", "chain", "zip", "urlencode"];

/// Bytes that have been made.
#[derive(Default)]
pub(super) struct Budget(AtomicUsize);

impl Budget {
    pub fn charge(&self, bytes: usize) -> Result<(), Error> {
        let before = self.0.fetch_add(bytes, Ordering::Relaxed);
        if bytes > MAX_VALUE || before.saturating_add(bytes) > MAX_TOTAL {
            return Err(refused(format!("makes more than {MAX_VALUE} bytes at once or {MAX_TOTAL} in all")));
        }
        Ok(())
    }
    /// Charges for walking through all of a list or map.
    fn look(&self, v: &Value) -> Result<(), Error> {
        match v.kind() {
            ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => self.charge(weight(v)?),
            _ => Ok(()),
        }
    }
    /// The value, if it may be kept.
    fn keep(&self, v: Value) -> Result<Value, Error> {
        self.charge(weight(&v)?)?;
        Ok(v)
    }
}

fn refused(what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

/// Bytes of a value with all that is in it, however often it is there.
fn weight(v: &Value) -> Result<usize, Error> {
    let mut sum = 0;
    add_weight(v, 0, &mut sum)?;
    Ok(sum)
}

fn add_weight(v: &Value, depth: usize, sum: &mut usize) -> Result<(), Error> {
    *sum += 32 + v.as_str().map_or(0, str::len) + v.as_bytes().map_or(0, <[u8]>::len);
    if *sum > MAX_VALUE || depth > MAX_DEPTH {
        return Err(refused(format!("makes a value of more than {MAX_VALUE} bytes or {MAX_DEPTH} levels")));
    }
    match v.kind() {
        ValueKind::Seq | ValueKind::Iterable => {
            for item in v.try_iter()? {
                add_weight(&item, depth + 1, sum)?;
            }
        }
        ValueKind::Map => {
            for key in v.try_iter()? {
                add_weight(&v.get_item(&key)?, depth + 1, sum)?;
                add_weight(&key, depth + 1, sum)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// Compiles a template to see whether it can be.
pub(super) fn check(source: &str) -> Result<(), Error> {
    compile(source).map(|_| ())
}

fn compile(source: &str) -> Result<(CompiledTemplate<'_>, u64), Error> {
    let ws_config = WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };
    let mut longest = 1;
    for token in tokenize(source, false, Default::default(), ws_config) {
        match token?.0 {
            // Products of literals are computed while compiling, text by text.
            Token::Mul => return Err(Error::new(ErrorKind::SyntaxError, "multiplies, which templates may not here")),
            Token::TemplateData(text) => longest = longest.max(text.len() as u64),
            _ => {}
        }
    }
    let config = TemplateConfig {
        syntax_config: Default::default(),
        ws_config,
        default_auto_escape: Arc::new(|_: &str| AutoEscape::None),
    };
    let mut compiled = CompiledTemplate::new("chat", source, &config)?;
    rewrite(&mut compiled.instructions)?;
    compiled.blocks.values_mut().try_for_each(rewrite)?;
    Ok((compiled, FUEL.min(MAX_RAW / longest)))
}

/// Replaces instructions by calls of functions whose names no template can write.
fn rewrite(instructions: &mut Instructions<'_>) -> Result<(), Error> {
    for i in 0..instructions.len() as u32 {
        let Some(at) = instructions.get_mut(i) else { continue };
        let call = match at {
            Instruction::Add => Some(("%add", Some(2))),
            Instruction::StringConcat => Some(("%concat", Some(2))),
            Instruction::Slice => Some(("%slice", Some(4))),
            Instruction::BuildMap(pairs) => u16::try_from(*pairs * 2).ok().map(|n| ("%map", Some(n))),
            Instruction::Eq => Some(("%==", Some(2))),
            Instruction::Ne => Some(("%!=", Some(2))),
            Instruction::Lt => Some(("%<", Some(2))),
            Instruction::Lte => Some(("%<=", Some(2))),
            Instruction::Gt => Some(("%>", Some(2))),
            Instruction::Gte => Some(("%>=", Some(2))),
            Instruction::In => Some(("%in", Some(2))),
            Instruction::ApplyFilter(name, count, _) => FILTERS.iter().find(|f| f.0 == *name).map(|f| (f.1, *count)),
            Instruction::CompareAndPreserve(_) => {
                return Err(Error::new(ErrorKind::SyntaxError, "chains comparisons, which templates may not here"));
            }
            _ => None,
        };
        if let Some((name, count)) = call {
            *at = Instruction::CallFunction(name, count);
        }
    }
    Ok(())
}

/// Comparisons by the names that operators and tests have. Lists of lists of one list take long to compare.
type Compare = fn(&Value, &Value) -> bool;
const COMPARISONS: &[(&str, &[&str], Compare)] = &[
    ("%==", &["eq", "equalto", "=="], |a, b| a == b),
    ("%!=", &["ne", "!="], |a, b| a != b),
    ("%<", &["lt", "lessthan", "<"], |a, b| a < b),
    ("%<=", &["le", "<="], |a, b| a <= b),
    ("%>", &["gt", "greaterthan", ">"], |a, b| a > b),
    ("%>=", &["ge", ">="], |a, b| a >= b),
];

/// In a browser there is no other thread: the steps alone bound its time, and a stack that overflows ends the Worker.
#[cfg(target_arch = "wasm32")]
pub(super) fn render(source: Arc<str>, values: Value) -> Result<String, Error> {
    run(&source, values)
}

/// Renders on a thread with the stack that it may need, no longer than is patient.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn render(source: Arc<str>, values: Value) -> Result<String, Error> {
    let (send, receive) = mpsc::channel();
    let run = move || {
        let _ = send.send(run(&source, values));
    };
    std::thread::Builder::new()
        .name("template".into())
        .stack_size(STACK)
        .spawn(run)
        .map_err(|e| refused(format!("cannot be run: {e}")))?;
    // A thread that takes longer goes on until its steps run out, on its own.
    receive.recv_timeout(PATIENCE).unwrap_or_else(|_| Err(refused(format!("took longer than {PATIENCE:?}"))))
}

fn run(source: &str, values: Value) -> Result<String, Error> {
    let (compiled, fuel) = compile(source)?;
    let budget = Arc::new(Budget::default());
    let mut environment = environment(&budget);
    environment.set_fuel(Some(fuel));
    let mut text = String::new();
    let mut out = make_string_output(&mut text);
    Vm::new(&environment).eval(&compiled.instructions, values, &compiled.blocks, &mut out, AutoEscape::None)?;
    drop(out);
    Ok(text)
}

fn environment<'a>(budget: &Arc<Budget>) -> Environment<'a> {
    let mut e = Environment::new();
    e.set_undefined_behavior(UndefinedBehavior::Lenient);
    REFUSED.iter().for_each(|name| e.remove_filter(name));
    e.add_filter("tojson", tojson);
    let own = budget.clone();
    e.set_formatter(move |out, state, value| {
        own.charge(weight(value)?)?;
        escape_formatter(out, state, value)
    });
    let own = budget.clone();
    e.set_unknown_method_callback(move |_, value, method, args| {
        own.keep(super::chat::python_method(value, method, args)?)
    });
    e.add_function("raise_exception", |what: String| -> Result<Value, Error> { Err(refused(what)) });
    let own = budget.clone();
    e.add_function("%add", move |state: &State, a: Value, b: Value| add(&own, state, a, b));
    let own = budget.clone();
    e.add_function("%concat", move |a: Value, b: Value| -> Result<Value, Error> {
        own.charge(weight(&a)? + weight(&b)?)?;
        Ok(Value::from(format!("{a}{b}")))
    });
    let own = budget.clone();
    e.add_function("%slice", move |state: &State, args: Rest<Value>| -> Result<Value, Error> {
        let [of, from, to, by] = &args[..] else { return Err(refused("slices with other than four operands")) };
        own.charge(weight(of)?)?;
        evaluate(state, "of[from:to:by]", context! { of, from, to, by })
    });
    let own = budget.clone();
    e.add_function("%map", move |args: Rest<Value>| -> Result<Value, Error> {
        args.iter().step_by(2).try_for_each(|key| own.charge(weight(key)?))?;
        Ok(args.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
    });
    let own = budget.clone();
    e.add_function("%in", move |state: &State, a: Value, b: Value| contains(&own, state, a, b));
    let own = budget.clone();
    e.add_test("in", move |state: &State, a: Value, b: Value| contains(&own, state, a, b));
    for (function, names, compare) in COMPARISONS {
        let own = budget.clone();
        let run = move |a: Value, b: Value| -> Result<bool, Error> {
            own.look(&a)?;
            own.look(&b)?;
            Ok(compare(&a, &b))
        };
        names.iter().for_each(|name| e.add_test(*name, run.clone()));
        e.add_function(*function, run);
    }
    for (name, function) in FILTERS {
        let own = budget.clone();
        e.add_function(*function, move |state: &State, args: Rest<Value>| -> Result<Value, Error> {
            own.charge(growth(name, &args)?)?;
            own.keep(state.apply_filter(name, &args)?)
        });
    }
    for name in ["dict", "namespace"] {
        let made = e.globals().find(|(n, _)| *n == name).map(|(_, f)| f);
        let own = budget.clone();
        e.add_function(name, move |state: &State, args: Rest<Value>| -> Result<Value, Error> {
            args.iter().try_for_each(|a| own.charge(weight(a)?))?;
            made.as_ref().ok_or_else(|| refused("is not known"))?.call(state, &args)
        });
    }
    e.remove_global("debug");
    e
}

/// JSON as Python's `json.dumps` writes it: that is what models were trained on. (The library's own escapes `<` and `&`.)
fn tojson(value: Value, indent: Option<usize>, named: Kwargs) -> Result<Value, Error> {
    let indent = indent.or(named.get("indent")?);
    named.assert_all_used()?;
    let mut out = vec![];
    let done = match indent {
        Some(n) => value.serialize(&mut serde_json::Serializer::with_formatter(
            &mut out,
            serde_json::ser::PrettyFormatter::with_indent(" ".repeat(n).as_bytes()),
        )),
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Spaced)),
    };
    done.map_err(|e| refused(format!("cannot be written as JSON: {e}")))?;
    Ok(Value::from_safe_string(String::from_utf8_lossy(&out).into_owned()))
}

/// A space behind commas and colons.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, to: &mut W, first: bool) -> std::io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, to: &mut W) -> std::io::Result<()> {
        to.write_all(b": ")
    }
}

fn contains(budget: &Budget, state: &State, a: Value, b: Value) -> Result<bool, Error> {
    budget.look(&a)?;
    budget.look(&b)?;
    Ok(evaluate(state, "a in b", context! { a, b })?.is_true())
}

fn add(budget: &Budget, state: &State, a: Value, b: Value) -> Result<Value, Error> {
    let grows = |v: &Value| matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Iterable);
    if grows(&a) || grows(&b) {
        budget.charge(weight(&a)? + weight(&b)?)?;
    }
    if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
        return Ok(Value::from([x, y].concat()));
    }
    evaluate(state, "a + b", context! { a, b })
}

/// What the library itself makes of an expression.
fn evaluate(state: &State, expression: &'static str, values: Value) -> Result<Value, Error> {
    state.env().compile_expression(expression)?.eval(values)
}

/// The most bytes that a filter can make of these operands, where that is more than a few times what they are.
fn growth(name: &str, args: &[Value]) -> Result<usize, Error> {
    let mut sum = 0usize;
    for a in args {
        sum += weight(a)?;
    }
    let text = |i: usize| args.get(i).and_then(|a| a.as_str()).unwrap_or_default();
    let count = |i: usize| args.get(i).and_then(|v| v.len()).unwrap_or(0);
    let most = match name {
        "replace" if text(1).is_empty() => (text(0).len() + 1) * (text(2).len() + 1),
        "replace" => text(0).len() + text(0).matches(text(1)).count() * text(2).len(),
        "join" => sum + count(0).max(text(0).len()) * (text(1).len() + 1),
        // Spaces before each line, of which there may be one a letter.
        "indent" | "tojson" => sum.saturating_mul(1 + largest(args)),
        // A filter by name is applied to each item unseen.
        "map"
            if !matches!(
                text(1),
                "" | "upper" | "lower" | "trim" | "string" | "length" | "int" | "float" | "title" | "capitalize"
            ) =>
        {
            return Err(refused(format!("maps the filter {}, which templates may not here", text(1))));
        }
        _ => sum,
    };
    Ok(most)
}

/// The largest whole number among operands, named ones too.
fn largest(args: &[Value]) -> usize {
    let named = args
        .iter()
        .filter(|a| a.kind() == ValueKind::Map)
        .flat_map(|a| a.try_iter().into_iter().flatten().filter_map(|k| a.get_item(&k).ok()));
    named.chain(args.iter().cloned()).filter_map(|v| v.as_usize()).max().unwrap_or(0)
}
