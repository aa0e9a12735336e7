//! Chat templates of model files, run by minijinja within bounds of steps, time and memory.

use super::guard;
use crate::base::{Error, Result};
use minijinja::value::{Value, from_args};
use minijinja::{ErrorKind, context};
use serde::Serialize;
use std::sync::Arc;

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

/// A template that compiles.
pub struct ChatTemplate {
    source: Arc<str>,
}

impl ChatTemplate {
    pub fn new(source: &str) -> Result<ChatTemplate> {
        if source.len() > MAX_SOURCE {
            return Err(wrong(format!("has {} bytes, at most {MAX_SOURCE} are read", source.len())));
        }
        guard::check(source).map_err(told)?;
        Ok(ChatTemplate { source: source.into() })
    }

    /// The conversation as the model was trained to see it; with `generate`, up to where its answer begins.
    pub fn render(&self, messages: &[Message], generate: bool, bos: &str, eos: &str) -> Result<String> {
        let values = context! { messages, add_generation_prompt => generate, bos_token => bos, eos_token => eos };
        guard::render(self.source.clone(), values).map_err(told)
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
        let own = context! { messages, tools, add_generation_prompt => true, bos_token => bos, eos_token => eos };
        let values = match more.is_object() {
            // The first that has a name gives its value.
            true => context! { ..own, ..Value::from_serialize(more) },
            false => own,
        };
        guard::render(self.source.clone(), values).map_err(told)
    }

    pub fn source(&self) -> &str {
        &self.source
    }
}

fn wrong(what: impl Into<String>) -> Error {
    Error::model("chat template", what)
}

fn told(e: minijinja::Error) -> Error {
    let place = e.line().map_or(String::new(), |l| format!(" at line {l}"));
    wrong(format!("failed{place}: {}", e.detail().map_or_else(|| e.kind().to_string(), String::from)))
}

/// The methods of Python's strings and dicts that templates in the wild call.
pub(super) fn python_method(
    value: &Value,
    method: &str,
    args: &[Value],
) -> std::result::Result<Value, minijinja::Error> {
    let unknown =
        || minijinja::Error::new(ErrorKind::UnknownMethod, format!("{} has no method {method}", value.kind()));
    if method == "items" && value.kind() == minijinja::value::ValueKind::Map {
        return value.try_iter().map(|keys| {
            keys.map(|k| Value::from(vec![k.clone(), value.get_item(&k).unwrap_or_default()]))
                .collect::<Vec<_>>()
                .into()
        });
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
            chars
                .next()
                .map_or(String::new(), |c| c.to_uppercase().chain(chars.flat_map(char::to_lowercase)).collect())
                .into()
        }
        "startswith" => text.starts_with(&from_args::<(String,)>(args)?.0).into(),
        "endswith" => text.ends_with(&from_args::<(String,)>(args)?.0).into(),
        "replace" => {
            let (from, to): (String, String) = from_args(args)?;
            if text.len().saturating_mul(to.len() + 1) > guard::MAX_VALUE
                && text.matches(&from).count().saturating_mul(to.len()) > guard::MAX_VALUE
            {
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "replace would make too much text"));
            }
            text.replace(&from, &to).into()
        }
        "join" => {
            let mut out = String::new();
            for (i, item) in from_args::<(Value,)>(args)?.0.try_iter()?.enumerate() {
                let item = item
                    .as_str()
                    .ok_or_else(|| minijinja::Error::new(ErrorKind::InvalidOperation, "join joins texts"))?
                    .to_string();
                if out.len() + text.len() + item.len() > guard::MAX_VALUE {
                    return Err(minijinja::Error::new(ErrorKind::InvalidOperation, "join would make too much text"));
                }
                out += if i > 0 { text } else { "" };
                out += &item;
            }
            out.into()
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
        assert_eq!(
            text,
            "<|im_start|>system\nBe kind<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
    }

    #[test]
    fn a_llama_template_with_namespaces_renders() {
        let source = "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}\n    {% set ns.n = ns.n + 1 %}\n<{{ m.role.upper() }}>{{ m.content | trim }}</{{ ns.n }}>{% endfor %}";
        let text = ChatTemplate::new(source).unwrap().render(&talk(), false, "<s>", "").unwrap();
        assert_eq!(text, "<s><USER>Hi</1><ASSISTANT>Hello</2><USER>Bye</3>");
    }

    /// What templates in the wild use, each on a line with what it must give.
    #[test]
    fn the_language_of_templates_is_whole() {
        let cases = [
            (
                "{{ messages[1:] | length }} {{ messages[::-1][0].content }} {{ 'abcdef'[1:3] }} {{ messages[-1]['role'] }}",
                "2 Bye bc user",
            ),
            ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2"),
            ("{{ messages | rejectattr('role', '==', 'user') | map(attribute='content') | join(', ') }}", "Hello"),
            ("{{ messages | map(attribute='role') | map('upper') | join('+') }}", "USER+ASSISTANT+USER"),
            (
                "{% set d = {'a': 1, 'b': [2, 3]} %}{{ d.a + 1 }} {{ d['b'] + [4] }} {{ 'a' in d }} {{ 'z' not in d }} {{ d | tojson }}",
                "2 [2, 3, 4] True True {\"a\": 1, \"b\": [2, 3]}",
            ),
            (
                "{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %}{% for k, v in {'b': 2} | items %} {{ k }}={{ v }}{% endfor %}",
                "a=1 b=2",
            ),
            (
                "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% set ns.s = ns.s + m.role[0] %}{% endfor %}{{ ns.n }}{{ ns.s }}",
                "3uau",
            ),
            (
                "{% for m in messages if m.role == 'user' %}{{ loop.index0 }}{{ loop.last }} {% endfor %}",
                "0False 1True ",
            ),
            (
                "{% macro turn(m, end='!') %}<{{ m.role }}>{{ end }}{% endmacro %}{{ turn(messages[0]) }}{{ turn(messages[1], end='?') }}",
                "<user>!<assistant>?",
            ),
            (
                "{{ 'a</think>\nb'.split('</think>')[-1].lstrip('\n') }} {{ ', '.join(['x', 'y']) }} {{ 'ab'.replace('a', 'c') }}",
                "b x, y cb",
            ),
            (
                "{{ 'yes' if messages | length > 2 and 3 >= 3 else 'no' }} {{ 7 % 2 == 1 }} {{ 1 != 2 }} {{ 1 < 2 }} {{ 2 <= 1 }} {{ 'a' ~ 1 ~ none }}",
                "yes True True True False a1None",
            ),
            (
                "{% if tools is defined and tools %}tools{% elif messages[0].content is string %}plain{% endif %} {{ x | default('d') }}",
                "plain d",
            ),
            (
                "{% set x %}block{% endset %}{{ x | upper }} {{ [3, 1] | sort | first }} {{ ' t ' | trim }} {{ dict(a=1).a }} {{ {} | length }}",
                "BLOCK 1 t 1 0",
            ),
            ("{{ messages[0] | tojson(indent=2) }}", "{\n  \"role\": \"user\",\n  \"content\": \" Hi \"\n}"),
        ];
        for (source, want) in cases {
            assert_eq!(
                ChatTemplate::new(source)
                    .and_then(|t| t.render(&talk(), true, "", ""))
                    .unwrap_or_else(|e| e.to_string()),
                want,
                "{source}"
            );
        }
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
