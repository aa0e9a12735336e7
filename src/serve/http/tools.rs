//! Calls of tools: how models of several families write them, and how they are told apart from text.

use super::error::{Answered, Refusal};
use super::fields::Fields;
use crate::session::{Token, Words};
use serde_json::{Map, Value, json};

const MOST_TOOLS: usize = 128;

/// How a model writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `<tool_call>{"name": …, "arguments": …}</tool_call>` (Hermes, Qwen). A model whose chat form knows no tools is told of
    /// them, and of this form, in its system message.
    Hermes,
    /// `{"name": …, "parameters": …}` as the whole answer (Llama 3).
    Llama,
    /// `[TOOL_CALLS]` and a list, or names with `[ARGS]` (Mistral).
    Mistral,
    /// Channels (gpt-oss): reasoning, text and calls.
    Harmony,
}

/// What of a form a template knows.
pub struct Known {
    pub form: Form,
    /// Whether the template itself writes tools.
    pub by_template: bool,
}

/// # Errors
/// A template that writes tools in a form that is not known here.
pub fn form_of(words: &Words) -> Answered<Known> {
    let template = words.template().unwrap_or_default();
    let known = |form| Ok(Known { form, by_template: true });
    if is_harmony(words) {
        known(Form::Harmony)
    } else if template.contains("<tool_call>") {
        known(Form::Hermes)
    } else if template.contains("[TOOL_CALLS]") || template.contains("[AVAILABLE_TOOLS]") {
        known(Form::Mistral)
    } else if template.contains("<|python_tag|>") || template.contains("ipython") {
        known(Form::Llama)
    } else if !template.contains("tools") {
        Ok(Known { form: Form::Hermes, by_template: false })
    } else {
        Err(Refusal::field(
            "tools",
            "cannot be used: the model's chat form writes calls in a way that is not known here",
        ))
    }
}

pub fn is_harmony(words: &Words) -> bool {
    words.template().is_some_and(|t| t.contains("<|channel|>"))
}

/// Whether tools are to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    None,
    Auto,
    Required,
    Named(String),
}

/// A tool that may be called.
#[derive(Debug, Clone)]
pub struct Tool {
    pub name: String,
    pub description: Option<String>,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

#[derive(Debug, Clone)]
pub struct Tools {
    pub list: Vec<Tool>,
    pub choice: Choice,
    /// Whether an answer may hold several calls.
    pub parallel: bool,
}

impl Tools {
    pub fn none() -> Tools {
        Tools { list: vec![], choice: Choice::None, parallel: true }
    }

    /// `tools`, `tool_choice` and `parallel_tool_calls` of OpenAI's chat.
    pub fn read(f: &mut Fields) -> Answered<Tools> {
        let mut list = vec![];
        for (i, tool) in f.list("tools")?.unwrap_or_default().into_iter().enumerate() {
            let mut tool = Fields::of(&format!("tools[{i}]"), tool)?;
            tool.only("type", &[json!("function")], "other tools are not run here")?;
            let missing = Refusal::field(&tool.name("function"), "is missing");
            let function = tool.object("function")?.ok_or(missing)?;
            tool.finish()?;
            list.push(Tool::read(function, "parameters")?);
        }
        let (choice, parallel) = Tools::read_choice(f)?;
        Tools { list, choice, parallel }.checked()
    }

    /// Whether one is to be called, and whether several may be.
    pub fn read_choice(f: &mut Fields) -> Answered<(Choice, bool)> {
        let parallel = f.flag("parallel_tool_calls")?.unwrap_or(true);
        let choice = match f.take("tool_choice") {
            None => Choice::Auto,
            Some(Value::String(s)) => match s.as_str() {
                "none" => Choice::None,
                "auto" => Choice::Auto,
                "required" => Choice::Required,
                _ => return Err(Refusal::field("tool_choice", "must be none, auto, required, or name a function")),
            },
            Some(object) => {
                let mut choice = Fields::of("tool_choice", object)?;
                choice.only("type", &[json!("function")], "other tools are not run here")?;
                let named = match choice.object("function")? {
                    Some(mut function) => function.text("name")?,
                    None => choice.text("name")?,
                };
                choice.finish()?;
                Choice::Named(named.ok_or_else(|| Refusal::field("tool_choice", "names no function"))?)
            }
        };
        Ok((choice, parallel))
    }

    pub fn checked(self) -> Answered<Tools> {
        if self.list.len() > MOST_TOOLS {
            return Err(Refusal::field(
                "tools",
                format!("has {} tools, at most {MOST_TOOLS} are taken", self.list.len()),
            ));
        }
        for (i, tool) in self.list.iter().enumerate() {
            if self.list[..i].iter().any(|t| t.name == tool.name) {
                return Err(Refusal::field("tools", format!("has two tools named {:?}", tool.name)));
            }
        }
        match &self.choice {
            Choice::Named(name) if !self.list.iter().any(|t| t.name == *name) => {
                Err(Refusal::field("tool_choice", format!("names {name:?}, which is none of the tools")))
            }
            Choice::Required if self.list.is_empty() => {
                Err(Refusal::field("tool_choice", "asks for a call, there are no tools"))
            }
            _ => Ok(self),
        }
    }

    /// Whether the model is to hear of tools at all.
    pub fn active(&self) -> bool {
        !self.list.is_empty() && self.choice != Choice::None
    }

    /// Those that may be called.
    fn callable(&self) -> impl Iterator<Item = &Tool> {
        self.list.iter().filter(|t| match &self.choice {
            Choice::Named(name) => t.name == *name,
            _ => true,
        })
    }

    /// The list as templates read it.
    pub fn for_template(&self) -> Value {
        if !self.active() {
            return Value::Null;
        }
        let tool = |t: &Tool| {
            let mut function = Map::new();
            function.insert("name".into(), t.name.as_str().into());
            if let Some(text) = &t.description {
                function.insert("description".into(), text.as_str().into());
            }
            function.insert("parameters".into(), t.parameters.clone());
            json!({ "type": "function", "function": function })
        };
        self.list.iter().map(tool).collect()
    }

    /// A grammar (llguidance's Lark) of what a model of this form must write where a call is required.
    pub fn grammar(&self, form: Form, words: &Words) -> Option<String> {
        if !matches!(self.choice, Choice::Required | Choice::Named(_)) {
            return None;
        }
        let arguments = if form == Form::Llama { "parameters" } else { "arguments" };
        let compact = json!({ "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": " });
        let with_style = |mut schema: Value| {
            schema["x-guidance"] = compact.clone();
            schema
        };
        let call = |t: &Tool| {
            json!({
                "type": "object", "additionalProperties": false, "required": ["name", arguments],
                "properties": { "name": { "const": t.name }, arguments: t.parameters },
            })
        };
        let any = with_style(json!({ "anyOf": self.callable().map(call).collect::<Vec<_>>() }));
        let mark = |text: &str| marked(words, text);
        let more = |with: &str| if self.parallel { format!("({with} call)*") } else { String::new() };
        Some(match form {
            Form::Hermes => format!(
                "start: call {}\ncall: {} \"\\n\" object \"\\n\" {}\nobject: %json {any}\n",
                more("\"\\n\""),
                mark("<tool_call>"),
                mark("</tool_call>")
            ),
            Form::Llama => format!("start: call\ncall: %json {any}\n"),
            Form::Mistral => {
                format!("start: {} \"[\" call {} \"]\"\ncall: %json {any}\n", mark("[TOOL_CALLS]"), more("\", \""))
            }
            Form::Harmony => {
                let mut rules = String::new();
                let mut names = vec![];
                for (i, tool) in self.callable().enumerate() {
                    let schema = with_style(tool.parameters.clone());
                    let name = Value::from(format!("functions.{}", tool.name));
                    rules += &format!(
                        "call{i}: {name} \" \" {} \"json\" {} args{i}\n",
                        mark("<|constrain|>"),
                        mark("<|message|>")
                    );
                    rules += &format!("args{i}: %json {schema}\n");
                    names.push(format!("call{i}"));
                }
                format!("start: {} \"commentary to=\" ({})\n{rules}", mark("<|channel|>"), names.join(" | "))
            }
        })
    }
}

/// A marker as a Lark grammar names it: by its id where it is none of the text.
pub fn marked(words: &Words, text: &str) -> String {
    match words.tokenizer().token_id(text) {
        Some(id) if words.tokenizer().is_marker(id) => format!("<[{id}]>"),
        _ => Value::from(text).to_string(),
    }
}

impl Tool {
    /// Reads a function: its schema has another key in other dialects.
    pub fn read(mut f: Fields, schema: &str) -> Answered<Tool> {
        let place = f.name("name");
        let name = f.text("name")?.ok_or_else(|| Refusal::field(&place, "is missing"))?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > 128 || !name.chars().all(fits) {
            return Err(Refusal::field(&place, "must be 1 to 128 letters, digits, _, - or ."));
        }
        let description = f.text("description")?;
        let place = f.name(schema);
        let parameters = match f.take(schema) {
            None => json!({ "type": "object", "properties": {} }),
            Some(object @ Value::Object(_)) => object,
            Some(_) => return Err(Refusal::field(&place, "must be a JSON schema of an object")),
        };
        // A call that is required obeys its schema anyway.
        f.ignore(&["strict", "type", "cache_control", "eager_input_streaming", "defer_loading"]);
        f.finish()?;
        Ok(Tool { name, description, parameters })
    }
}

/// What a model that knows no tools is told, and how the turns of a talk with tools read to it.
pub fn told_in_words(messages: Vec<Value>, tools: &Tools) -> Vec<Value> {
    let mut out: Vec<Value> = vec![];
    let mut system = String::new();
    for message in messages {
        let text = message["content"].as_str().unwrap_or_default();
        match message["role"].as_str().unwrap_or_default() {
            "system" if out.is_empty() => {
                system += if system.is_empty() { "" } else { "\n" };
                system += text;
            }
            "tool" => {
                out.push(json!({ "role": "user", "content": format!("<tool_response>\n{text}\n</tool_response>") }))
            }
            "assistant" if message.get("tool_calls").is_some() => {
                let mut text = text.to_string();
                for call in message["tool_calls"].as_array().into_iter().flatten() {
                    let f = &call["function"];
                    let call = json!({ "name": f["name"], "arguments": f["arguments"] });
                    text += &format!("{}<tool_call>\n{call}\n</tool_call>", if text.is_empty() { "" } else { "\n" });
                }
                out.push(json!({ "role": "assistant", "content": text }));
            }
            _ => out.push(message),
        }
    }
    if tools.active() {
        let list: Vec<String> = tools.for_template().as_array().into_iter().flatten().map(Value::to_string).collect();
        system += if system.is_empty() { "" } else { "\n\n" };
        system += &format!(
            "You may call functions. These are there, one JSON schema a line, within <tools></tools>:\n<tools>\n{}\n</tools>\n\
             To call one, write its name and arguments as JSON within <tool_call></tool_call>:\n\
             <tool_call>\n{{\"name\": \"the name\", \"arguments\": {{}}}}\n</tool_call>",
            list.join("\n")
        );
    }
    if !system.is_empty() {
        out.insert(0, json!({ "role": "system", "content": system }));
    }
    out
}

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
    use super::*;

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

    #[test]
    fn a_model_without_tools_is_told_in_words() {
        let messages = vec![
            json!({ "role": "system", "content": "Be kind." }),
            json!({ "role": "user", "content": "1+2?" }),
            json!({ "role": "assistant", "content": "", "tool_calls": [{ "function": { "name": "add", "arguments": { "a": 1 } } }] }),
            json!({ "role": "tool", "content": "3" }),
        ];
        let told = told_in_words(messages, &tools(&["add"]));
        let system = told[0]["content"].as_str().unwrap();
        assert!(
            system.starts_with("Be kind.\n\nYou may call functions.") && system.contains("\"name\":\"add\""),
            "{system}"
        );
        assert_eq!(told[2]["content"], "<tool_call>\n{\"name\":\"add\",\"arguments\":{\"a\":1}}\n</tool_call>");
        assert_eq!(
            (&told[3]["role"], &told[3]["content"]),
            (&json!("user"), &json!("<tool_response>\n3\n</tool_response>"))
        );
    }
}
