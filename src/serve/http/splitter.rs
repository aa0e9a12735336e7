//! Calls and reasoning told apart from text, piece by piece.

use super::tools::{Form, Tools};
use crate::session::{Token, Words};
use serde_json::{Map, Value};

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Text(String),
    /// What the model says to itself.
    Reasoning(String),
    Call {
        name: String,
        arguments: String,
    },
}

/// Tells calls and reasoning apart from text, piece by piece. A call is given out whole.
pub struct Splitter {
    form: Form,
    /// Names that may be called; of none everything stays text.
    names: Vec<String>,
    most_calls: usize,
    held: String,
    /// What `held` is: text that may begin a call, or what stands behind its beginning.
    inside: bool,
    /// A call has just ended.
    between: bool,
    /// Of a harmony message: its header until `<|message|>`, then where its body goes.
    channel: Channel,
}

#[derive(Debug, Clone, PartialEq)]
enum Channel {
    Header,
    Text,
    Reasoning,
    Call(String),
}

impl Splitter {
    pub fn new(form: Form, tools: &Tools) -> Splitter {
        let names = if tools.active() { tools.callable().map(|t| t.name.clone()).collect() } else { vec![] };
        let most_calls = if tools.parallel { usize::MAX } else { 1 };
        Splitter { form, names, most_calls, held: String::new(), inside: false, between: false, channel: Channel::Text }
    }

    /// What a token brings. Markers have no text of their own but say where parts begin and end.
    pub fn push(&mut self, words: &Words, token: &Token) -> Vec<Piece> {
        let marker = words.tokenizer().is_marker(token.id).then(|| words.tokenizer().token_text(token.id));
        let mut out = self.text(&token.text);
        if let Some(marker) = marker {
            out.extend(self.marker(&marker));
        }
        self.limited(out)
    }

    fn marker(&mut self, marker: &str) -> Vec<Piece> {
        match (self.form, marker) {
            (Form::Harmony, _) => self.harmony(marker),
            (Form::Hermes, "<tool_call>" | "</tool_call>") => self.text(marker),
            (Form::Mistral, "[TOOL_CALLS]" | "[ARGS]" | "[CALL_ID]") => self.text(marker),
            (Form::Llama, "<|python_tag|>") => {
                self.inside = true;
                vec![]
            }
            _ => vec![],
        }
    }

    fn text(&mut self, text: &str) -> Vec<Piece> {
        if text.is_empty() {
            return vec![];
        }
        match self.form {
            Form::Harmony => return self.harmony_text(text),
            _ if self.names.is_empty() => return vec![Piece::Text(text.into())],
            _ => self.held += text,
        }
        match self.form {
            Form::Llama => {
                let begins = self.held.trim_start();
                self.inside |= begins.starts_with('{');
                match self.inside || begins.is_empty() {
                    true => vec![],
                    false => vec![Piece::Text(std::mem::take(&mut self.held))],
                }
            }
            Form::Mistral => self.until("[TOOL_CALLS]"),
            _ => self.hermes(),
        }
    }

    /// Gives out text up to where `begin` stands or may stand; behind it everything is held.
    fn until(&mut self, begin: &str) -> Vec<Piece> {
        if self.inside {
            return vec![];
        }
        let (end, found) = match self.held.find(begin) {
            Some(at) => (at, true),
            None => (self.held.len() - overlap(&self.held, begin), false),
        };
        let text: String = self.held.drain(..end).collect();
        if found {
            self.held.drain(..begin.len());
            self.inside = true;
        }
        if text.is_empty() { vec![] } else { vec![Piece::Text(text)] }
    }

    fn hermes(&mut self) -> Vec<Piece> {
        const BEGIN: &str = "<tool_call>";
        const END: &str = "</tool_call>";
        let mut out = vec![];
        loop {
            if self.between {
                // Blank lines between calls are none of the text.
                let rest = self.held.trim_start();
                if rest.len() < BEGIN.len() && BEGIN.starts_with(rest) {
                    return out;
                }
                if rest.starts_with(BEGIN) {
                    self.held = rest.to_string();
                }
                self.between = false;
            }
            out.extend(self.until(BEGIN));
            let Some(end) = self.held.find(END).filter(|_| self.inside) else { return out };
            let rest = self.held.split_off(end + END.len());
            let body = std::mem::replace(&mut self.held, rest)[..end].to_string();
            self.inside = false;
            match self.calls_of(&body, "arguments") {
                Some(calls) => {
                    out.extend(calls);
                    self.between = true;
                }
                None => out.push(Piece::Text(format!("{BEGIN}{body}{END}"))),
            }
        }
    }

    /// What is left when the answer has ended.
    pub fn finish(&mut self) -> Vec<Piece> {
        let held = std::mem::take(&mut self.held);
        let out = match (self.form, self.inside) {
            (Form::Harmony, _) => {
                self.held = held;
                self.harmony("<|end|>")
            }
            (_, false) if held.is_empty() || self.between && held.trim().is_empty() => vec![],
            (_, false) => vec![Piece::Text(held)],
            (Form::Hermes, true) => {
                self.calls_of(&held, "arguments").unwrap_or_else(|| vec![Piece::Text(format!("<tool_call>{held}"))])
            }
            (Form::Llama, true) => self.calls_of(&held, "parameters").unwrap_or_else(|| vec![Piece::Text(held)]),
            (Form::Mistral, true) => {
                self.mistral_calls(&held).unwrap_or_else(|| vec![Piece::Text(format!("[TOOL_CALLS]{held}"))])
            }
        };
        self.limited(out)
    }

    /// Calls in JSON: an object, a list of such, or several behind each other.
    fn calls_of(&self, text: &str, arguments: &str) -> Option<Vec<Piece>> {
        let mut out = vec![];
        let mut rest = text.trim();
        while !rest.is_empty() {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
            let value = values.next()?.ok()?;
            rest = rest[values.byte_offset()..].trim_start().trim_start_matches([';', ',']).trim_start();
            match value {
                Value::Array(list) => {
                    out.extend(list.iter().map(|v| self.call(v, arguments)).collect::<Option<Vec<_>>>()?)
                }
                one => out.push(self.call(&one, arguments)?),
            }
        }
        (!out.is_empty()).then_some(out)
    }

    fn call(&self, value: &Value, arguments: &str) -> Option<Piece> {
        let name = value["name"].as_str()?.to_string();
        let given = value.get(arguments).or(value.get("arguments")).or(value.get("parameters"));
        self.named(name, given?)
    }

    fn named(&self, name: String, given: &Value) -> Option<Piece> {
        let arguments = match given {
            Value::String(text) if serde_json::from_str::<Map<String, Value>>(text).is_ok() => text.clone(),
            object @ Value::Object(_) => object.to_string(),
            _ => return None,
        };
        self.names.contains(&name).then_some(Piece::Call { name, arguments })
    }

    /// A list in JSON, or `name[ARGS]{…}` one behind the other.
    fn mistral_calls(&self, text: &str) -> Option<Vec<Piece>> {
        if text.trim_start().starts_with(['[', '{']) {
            return self.calls_of(text, "arguments");
        }
        let one = |part: &str| {
            let (name, json) = part.split_once("[ARGS]")?;
            let name = name.split("[CALL_ID]").next().unwrap_or_default().trim();
            self.named(name.to_string(), &serde_json::from_str(json.trim()).ok()?)
        };
        text.split("[TOOL_CALLS]").filter(|p| !p.trim().is_empty()).map(one).collect()
    }

    fn harmony_text(&mut self, text: &str) -> Vec<Piece> {
        match self.channel {
            Channel::Header | Channel::Call(_) => {
                self.held += text;
                vec![]
            }
            Channel::Text => vec![Piece::Text(text.into())],
            Channel::Reasoning => vec![Piece::Reasoning(text.into())],
        }
    }

    /// A marker of a harmony message: `<|start|>role<|channel|>name to=functions.x <|constrain|>json<|message|>body<|end|>`.
    fn harmony(&mut self, marker: &str) -> Vec<Piece> {
        match marker {
            "<|start|>" | "<|channel|>" | "<|end|>" | "<|call|>" | "<|return|>" => {
                let ended = std::mem::replace(&mut self.channel, Channel::Header);
                let held = std::mem::take(&mut self.held);
                // A role before the channel's name.
                match ended {
                    Channel::Call(name) => {
                        match serde_json::from_str(held.trim()).ok().and_then(|v: Value| self.named(name, &v)) {
                            Some(call) => vec![call],
                            None => vec![Piece::Text(held)],
                        }
                    }
                    _ => vec![],
                }
            }
            "<|constrain|>" => {
                self.held.push(' ');
                vec![]
            }
            "<|message|>" => {
                let header = std::mem::take(&mut self.held);
                let to = header.split_whitespace().find_map(|w| w.strip_prefix("to=functions."));
                self.channel = match to {
                    Some(name) => Channel::Call(name.to_string()),
                    None if header.trim_start().starts_with("final") => Channel::Text,
                    None if header.trim_start().starts_with("commentary") => Channel::Text,
                    None => Channel::Reasoning,
                };
                vec![]
            }
            _ => vec![],
        }
    }

    /// No more calls than may be made.
    fn limited(&mut self, pieces: Vec<Piece>) -> Vec<Piece> {
        let left = &mut self.most_calls;
        let keep = |p: &Piece| match p {
            Piece::Call { .. } => {
                let fits = *left > 0;
                *left = left.saturating_sub(1);
                fits
            }
            _ => true,
        };
        pieces.into_iter().filter(keep).collect()
    }
}

/// The longest end of `text` that begins `what`.
fn overlap(text: &str, what: &str) -> usize {
    let most = text.len().min(what.len() - 1);
    (1..=most).rev().find(|n| text.as_bytes().ends_with(&what.as_bytes()[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tools::{Choice, Tool};
    use super::*;
    use serde_json::json;

    fn tools(names: &[&str]) -> Tools {
        let tool = |n: &&str| Tool { name: n.to_string(), description: None, parameters: json!({ "type": "object" }) };
        Tools { list: names.iter().map(tool).collect(), choice: Choice::Auto, parallel: true }
    }

    fn call(name: &str, arguments: &str) -> Piece {
        Piece::Call { name: name.into(), arguments: arguments.into() }
    }

    /// What comes of a text in pieces of `size` letters; parts in `⟨⟩` are markers.
    fn split(form: Form, text: &str, size: usize) -> Vec<Piece> {
        let mut s = Splitter::new(form, &tools(&["add", "get_time"]));
        let mut out: Vec<Piece> = vec![];
        for part in text.split_inclusive('⟩') {
            let (plain, marker) = part.split_once('⟨').map_or((part, None), |(p, m)| (p, m.strip_suffix('⟩')));
            let letters: Vec<char> = plain.chars().collect();
            for piece in letters.chunks(size) {
                out.extend(s.text(&piece.iter().collect::<String>()));
            }
            out.extend(marker.map(|m| s.marker(m)).unwrap_or_default());
        }
        out.extend(s.finish());
        // Neighbouring texts are one.
        let mut joined: Vec<Piece> = vec![];
        for piece in out {
            match (joined.last_mut(), piece) {
                (Some(Piece::Text(a)), Piece::Text(b)) | (Some(Piece::Reasoning(a)), Piece::Reasoning(b)) => *a += &b,
                (_, piece) => joined.push(piece),
            }
        }
        joined
    }

    #[test]
    fn calls_of_every_form_are_told_apart_from_text() {
        let text = |t: &str| Piece::Text(t.into());
        let sum = || call("add", r#"{"a":1,"b":[2,"}"]}"#);
        let time = || call("get_time", "{}");
        let cases: Vec<(Form, &str, Vec<Piece>)> = vec![
            (Form::Hermes, "Hello < there", vec![text("Hello < there")]),
            (
                Form::Hermes,
                "I add.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, \"}\"]}}\n</tool_call>\n<tool_call>{\"name\": \"get_time\", \"arguments\": {}}</tool_call>\n",
                vec![text("I add.\n"), sum(), time()],
            ),
            (Form::Hermes, "<tool_call>{\"name\": \"get_time\", \"arguments\": \"{}\"}", vec![time()]),
            (Form::Hermes, "⟨<tool_call>⟩{\"name\": \"get_time\", \"arguments\": {}}⟨</tool_call>⟩", vec![time()]),
            (
                Form::Hermes,
                "<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call> done",
                vec![text("<tool_call>{\"name\": \"rm\", \"arguments\": {}}</tool_call> done")],
            ),
            (Form::Hermes, "<tool_call>{oh", vec![text("<tool_call>{oh")]),
            (Form::Llama, "plain {x}", vec![text("plain {x}")]),
            (Form::Llama, " {\"name\": \"add\", \"parameters\": {\"a\": 1, \"b\": [2, \"}\"]}}", vec![sum()]),
            (
                Form::Llama,
                "⟨<|python_tag|>⟩{\"name\": \"get_time\", \"parameters\": {}}; {\"name\": \"get_time\", \"parameters\": {}}",
                vec![time(), time()],
            ),
            (Form::Llama, "{\"answer\": 3}", vec![text("{\"answer\": 3}")]),
            (
                Form::Mistral,
                "So:⟨[TOOL_CALLS]⟩[{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": [2, \"}\"]}}, {\"name\": \"get_time\", \"arguments\": {}}]",
                vec![text("So:"), sum(), time()],
            ),
            (Form::Mistral, "⟨[TOOL_CALLS]⟩get_time⟨[ARGS]⟩{}⟨[TOOL_CALLS]⟩get_time⟨[ARGS]⟩{}", vec![time(), time()]),
            (Form::Mistral, "[TOOLS are nice", vec![text("[TOOLS are nice")]),
            (
                Form::Harmony,
                "⟨<|channel|>⟩analysis⟨<|message|>⟩Let me add.⟨<|end|>⟩⟨<|start|>⟩assistant⟨<|channel|>⟩commentary to=functions.add ⟨<|constrain|>⟩json⟨<|message|>⟩{\"a\": 1, \"b\": [2, \"}\"]}⟨<|call|>⟩",
                vec![Piece::Reasoning("Let me add.".into()), sum()],
            ),
            (
                Form::Harmony,
                "⟨<|channel|>⟩analysis⟨<|message|>⟩Hm⟨<|end|>⟩⟨<|start|>⟩assistant⟨<|channel|>⟩final⟨<|message|>⟩Three.⟨<|return|>⟩",
                vec![Piece::Reasoning("Hm".into()), text("Three.")],
            ),
        ];
        for (form, given, want) in cases {
            for size in [1, 2, 3, 7, 1000] {
                assert_eq!(split(form, given, size), want, "{form:?} in pieces of {size}: {given}");
            }
        }
    }

    #[test]
    fn one_call_is_one_call() {
        let mut s = Splitter::new(Form::Hermes, &Tools { parallel: false, ..tools(&["add"]) });
        let twice = "<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>".repeat(2);
        let mut pieces = s.text(&twice);
        pieces = s.limited(pieces);
        assert_eq!(pieces, [call("add", "{}")]);
    }
}
