//! Chat templates of model files: programs in Jinja's language that nobody has read, run as transformers runs them (Jinja2 in its
//! sandbox, with `trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}`, `tojson`, `raise_exception` and
//! `strftime_now`), within one budget of steps, bytes, depth and time.
//!
//! The language is small, and what makes it safe is that everything in it is metered: so it is run by an interpreter of its own
//! rather than by a library whose values grow where nobody counts.

mod clock;
mod conditions;
mod eval;
mod filters;
mod format;
mod functions;
mod json;
mod lex;
mod math;
mod methods;
mod parse;
mod state;
mod tree;
mod value;

use crate::base::{Budget, Error, Limits, Result};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use value::Value;

/// Bytes of a template.
const MAX_SOURCE: usize = 1 << 20;

const LIMITS: Limits =
    Limits { bytes: 192 << 20, value: 16 << 20, steps: 16 << 20, depth: 400, time: Duration::from_secs(5) };

/// The stack that a template has, whatever thread asks: depth times what a level takes, several times over.
#[cfg(not(target_arch = "wasm32"))]
const STACK: usize = 32 << 20;

/// One turn of a conversation.
///
/// ```
/// use warpweft::Message;
///
/// let talk = [Message::new("system", "Be brief."), Message::new("user", "Hi")];
/// assert_eq!(talk[1].role, "user");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A value that a template is given, with dicts in their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Variable {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Variable>),
    Dict(Vec<(String, Variable)>),
}

impl From<&str> for Variable {
    fn from(text: &str) -> Self {
        Variable::Text(text.into())
    }
}

impl From<&Message> for Variable {
    fn from(m: &Message) -> Self {
        Variable::Dict(vec![("role".into(), (&*m.role).into()), ("content".into(), (&*m.content).into())])
    }
}

impl From<&serde_json::Value> for Variable {
    fn from(v: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        match v {
            Json::Null => Variable::None,
            Json::Bool(b) => Variable::Bool(*b),
            Json::Number(n) => {
                n.as_i64().map_or_else(|| Variable::Float(n.as_f64().unwrap_or(f64::NAN)), Variable::Int)
            }
            Json::String(t) => Variable::Text(t.clone()),
            Json::Array(items) => Variable::List(items.iter().map(Variable::from).collect()),
            Json::Object(map) => Variable::Dict(map.iter().map(|(k, v)| (k.clone(), Variable::from(v))).collect()),
        }
    }
}

impl<'de> Deserialize<'de> for Variable {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl<'de> serde::de::Visitor<'de> for Any {
            type Value = Variable;
            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> std::result::Result<Variable, E> {
                Ok(Variable::None)
            }
            fn visit_bool<E>(self, v: bool) -> std::result::Result<Variable, E> {
                Ok(Variable::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> std::result::Result<Variable, E> {
                Ok(Variable::Int(v))
            }
            fn visit_u64<E>(self, v: u64) -> std::result::Result<Variable, E> {
                Ok(i64::try_from(v).map_or(Variable::Float(v as f64), Variable::Int))
            }
            fn visit_f64<E>(self, v: f64) -> std::result::Result<Variable, E> {
                Ok(Variable::Float(v))
            }
            fn visit_str<E>(self, v: &str) -> std::result::Result<Variable, E> {
                Ok(Variable::Text(v.into()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Variable, A::Error> {
                let mut out = vec![];
                while let Some(v) = list.next_element()? {
                    out.push(v);
                }
                Ok(Variable::List(out))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<Variable, A::Error> {
                let mut out = vec![];
                while let Some(pair) = map.next_entry()? {
                    out.push(pair);
                }
                Ok(Variable::Dict(out))
            }
        }
        d.deserialize_any(Any)
    }
}

/// A template that compiles.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
}

impl ChatTemplate {
    /// # Errors
    /// A template that is too large, nests too deep, or is not written in the language.
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > MAX_SOURCE {
            return Err(wrong(format!("has {} bytes, at most {MAX_SOURCE} are read", source.len())));
        }
        on_own_stack(|| lex::lex(source).and_then(parse::parse).map(drop).map_err(Fail::told))?;
        Ok(ChatTemplate { source: source.into() })
    }

    /// The conversation as the model was trained to see it; with `generate`, up to where its answer begins.
    pub fn render(&self, messages: &[Message], generate: bool, bos: &str, eos: &str) -> Result<String> {
        let messages = Variable::List(messages.iter().map(Variable::from).collect());
        self.render_with(&[
            ("messages", messages),
            ("add_generation_prompt", Variable::Bool(generate)),
            ("bos_token", bos.into()),
            ("eos_token", eos.into()),
        ])
    }

    /// The same for messages with any fields (a list of objects) and for tools (a list, or null); `more` (an object, or
    /// null) are further variables of the template.
    pub fn render_values(
        &self,
        messages: &serde_json::Value,
        tools: &serde_json::Value,
        more: &serde_json::Value,
        bos: &str,
        eos: &str,
    ) -> Result<String> {
        let more = more.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), Variable::from(v)));
        let mut variables: Vec<(&str, Variable)> = more.collect();
        // What the conversation is made of is not changed by further variables.
        variables.extend([
            ("messages", Variable::from(messages)),
            ("tools", Variable::from(tools)),
            ("add_generation_prompt", Variable::Bool(true)),
            ("bos_token", bos.into()),
            ("eos_token", eos.into()),
        ]);
        self.render_with(&variables)
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// The same of any variables. `tools` and `documents` are none where they are not among them, as in transformers.
    ///
    /// # Errors
    /// What the template raises, and what takes too much of anything.
    pub fn render_with(&self, variables: &[(&str, Variable)]) -> Result<String> {
        on_own_stack(|| {
            let budget = Budget::new("chat template", LIMITS);
            self.run(variables, &budget)
        })
    }

    fn run(&self, variables: &[(&str, Variable)], budget: &Budget) -> Result<String> {
        let tree = lex::lex(&self.source).and_then(parse::parse).map_err(Fail::told)?;
        let mut values = vec![("tools".into(), Value::None), ("documents".into(), Value::None)];
        for (name, variable) in variables {
            values.retain(|v: &(std::rc::Rc<str>, Value)| &*v.0 != *name);
            values.push(((*name).into(), given(variable, budget).map_err(Fail::told)?));
        }
        let mut run = state::Interpreter::new(budget, values);
        let mut out = String::new();
        let done = run.run(&tree, &mut out);
        let line = run.line;
        done.map_err(|fail| fail.on(line).told())?;
        Ok(out)
    }
}

fn given(variable: &Variable, budget: &Budget) -> Run<Value> {
    let _level = budget.enter()?;
    Ok(match variable {
        Variable::None => Value::None,
        Variable::Bool(b) => Value::Bool(*b),
        Variable::Int(n) => Value::Int(*n),
        Variable::Float(x) => Value::Float(*x),
        Variable::Text(t) => {
            // What the caller brings is theirs: it counts, but a long message is no attack.
            budget.work(t.len() as u64 / 64)?;
            Value::text(&**t)
        }
        Variable::List(items) => {
            let items = items.iter().map(|v| given(v, budget)).collect::<Run<_>>()?;
            Value::list(items, budget)?
        }
        Variable::Dict(pairs) => {
            let pairs = pairs.iter().map(|(k, v)| Ok((Value::text(&**k), given(v, budget)?))).collect::<Run<_>>()?;
            Value::dict(pairs, budget)?
        }
    })
}

/// In a browser there is no other thread: depth is bounded so that its stack is enough.
#[cfg(target_arch = "wasm32")]
fn on_own_stack<R>(f: impl FnOnce() -> Result<R>) -> Result<R> {
    f()
}

/// Runs on a thread whose stack is known. It ends when the budget does.
#[cfg(not(target_arch = "wasm32"))]
fn on_own_stack<R: Send>(f: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".into()).stack_size(STACK).spawn_scoped(scope, f);
        let thread = thread.map_err(|e| wrong(format!("cannot be run: {e}")))?;
        thread.join().unwrap_or_else(|_| Err(wrong("cannot be run: its thread ended")))
    })
}

fn wrong(what: impl Into<String>) -> Error {
    Error::model("chat template", what)
}

/// Why a template does not go on.
#[derive(Debug)]
struct Fail {
    what: String,
    line: Option<u32>,
}

type Run<T> = std::result::Result<T, Fail>;

impl Fail {
    fn new(what: impl Into<String>) -> Fail {
        Fail { what: what.into(), line: None }
    }
    fn at(line: u32, what: impl Into<String>) -> Fail {
        Fail { what: what.into(), line: Some(line) }
    }
    /// On this line, if none is known.
    fn on(self, line: u32) -> Fail {
        Fail { line: self.line.or(Some(line)), ..self }
    }
    fn told(self) -> Error {
        let place = self.line.map_or(String::new(), |l| format!(" at line {l}"));
        wrong(format!("failed{place}: {}", self.what))
    }
}

impl From<Error> for Fail {
    fn from(e: Error) -> Fail {
        Fail::new(match e {
            Error::Model { what, .. } => what,
            other => other.to_string(),
        })
    }
}
