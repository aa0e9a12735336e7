//! Chat templates of model files, run by minijinja within bounds of steps and of output.

use crate::base::{Error, Result};
use minijinja::value::{Value, from_args};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior, context};
use serde::Serialize;

/// Steps that a template may take, and bytes that it may make.
const FUEL: u64 = 5_000_000;
const MAX_OUTPUT: usize = 64 << 20;
const MAX_SOURCE: usize = 1 << 20;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

impl Message {
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        Message { role: role.into(), content: content.into() }
    }
}

/// A compiled template.
pub struct ChatTemplate {
    environment: Environment<'static>,
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > MAX_SOURCE {
            return Err(wrong(format!("has {} bytes, at most {MAX_SOURCE} are read", source.len())));
        }
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_unknown_method_callback(python_method);
        environment.add_function("raise_exception", |what: String| -> std::result::Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        environment.add_template_owned("chat", source.to_string()).map_err(|e| wrong(e.to_string()))?;
        Ok(ChatTemplate { environment })
    }

    /// The conversation as the model was trained to see it; with `generate`, up to where its answer begins.
    pub fn render(&self, messages: &[Message], generate: bool, bos: &str, eos: &str) -> Result<String> {
        let template = self.environment.get_template("chat").map_err(|e| wrong(e.to_string()))?;
        let mut out = Bounded(vec![]);
        let values = context! { messages, add_generation_prompt => generate, bos_token => bos, eos_token => eos };
        template.render_captured_to(values, &mut out).map_err(|e| {
            let place = e.line().map_or(String::new(), |l| format!(" at line {l}"));
            wrong(format!("failed{place}: {}", e.detail().map_or_else(|| e.to_string(), String::from)))
        })?;
        String::from_utf8(out.0).map_err(|_| wrong("made text that is not UTF-8"))
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::model("chat template", what)
}

/// A writer that refuses more than a template has any reason to make.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(std::io::Error::other(format!("the output passed {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The methods of Python's strings and dicts that templates in the wild call.
fn python_method(_: &State, value: &Value, method: &str, args: &[Value]) -> std::result::Result<Value, minijinja::Error> {
    let unknown = || minijinja::Error::new(ErrorKind::UnknownMethod, format!("{} has no method {method}", value.kind()));
    if method == "items" && value.kind() == minijinja::value::ValueKind::Map {
        return value.try_iter().map(|keys| keys.map(|k| Value::from(vec![k.clone(), value.get_item(&k).unwrap_or_default()])).collect::<Vec<_>>().into());
    }
    if method == "get" && value.kind() == minijinja::value::ValueKind::Map {
        let (key, default): (Value, Option<Value>) = from_args(args)?;
        let found = value.get_item(&key)?;
        return Ok(if found.is_undefined() { default.unwrap_or_default() } else { found });
    }
    let text = value.as_str().ok_or_else(unknown)?;
    let set = |args: &[Value]| from_args::<(Option<String>,)>(args).map(|a| a.0);
    let cut = |set: Option<String>, left: bool, right: bool| {
        let strips = |c: char| set.as_ref().map_or(c.is_whitespace(), |s| s.contains(c));
        let text = if left { text.trim_start_matches(strips) } else { text };
        Value::from(if right { text.trim_end_matches(strips) } else { text })
    };
    Ok(match method {
        "strip" => cut(set(args)?, true, true),
        "lstrip" => cut(set(args)?, true, false),
        "rstrip" => cut(set(args)?, false, true),
        "upper" => text.to_uppercase().into(),
        "lower" => text.to_lowercase().into(),
        "title" | "capitalize" => {
            let mut chars = text.chars();
            chars.next().map_or(String::new(), |c| c.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect()).into()
        }
        "startswith" => text.starts_with(&from_args::<(String,)>(args)?.0).into(),
        "endswith" => text.ends_with(&from_args::<(String,)>(args)?.0).into(),
        "replace" => {
            let (from, to): (String, String) = from_args(args)?;
            if text.len().saturating_mul(to.len() + 1) > MAX_OUTPUT {
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "replace would make too much text"));
            }
            text.replace(&from, &to).into()
        }
        "split" => match set(args)? {
            Some(by) if !by.is_empty() => text.split(&by).map(String::from).collect::<Vec<_>>().into(),
            _ => text.split_whitespace().map(String::from).collect::<Vec<_>>().into(),
        },
        "find" => text.find(&from_args::<(String,)>(args)?.0).map_or(-1, |i| i as i64).into(),
        "count" => (text.matches(&from_args::<(String,)>(args)?.0).count() as i64).into(),
        _ => return Err(unknown()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk() -> Vec<Message> {
        vec![Message::new("user", " Hi "), Message::new("assistant", "Hello"), Message::new("user", "Bye")]
    }

    #[test]
    fn a_chatml_template_renders() {
        let source = "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].strip() + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let text = ChatTemplate::new(source).unwrap().render(&talk()[..1], true, "", "").unwrap();
        assert_eq!(text, "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_llama_template_with_namespaces_renders() {
        let source = "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n<{{ m.role.upper() }}>{{ m.content | trim }}</{{ ns.n }}>{% endfor %}";
        let text = ChatTemplate::new(source).unwrap().render(&talk(), false, "<s>", "").unwrap();
        assert_eq!(text, "<s><USER>Hi</1><ASSISTANT>Hello</2><USER>Bye</3>");
    }

    #[test]
    fn hostile_templates_end() {
        let fails = |source: &str, says: &str| {
            let done = ChatTemplate::new(source).and_then(|t| t.render(&talk(), true, "", ""));
            let e = done.expect_err(source).to_string();
            assert!(e.contains(says), "{e}");
        };
        fails("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "fuel");
        fails("{% if %}", "chat template");
        fails("{{ raise_exception('roles must alternate') }}", "roles must alternate");
        fails("{{ messages[0].content.nothing() }}", "no method");
    }
}
