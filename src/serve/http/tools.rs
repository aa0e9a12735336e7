//! Calls of tools: how models of several families write them, and how they are told apart from text.

use super::error::{Answered, Refusal};
use super::fields::Fields;
use crate::session::Words;
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
    pub fn callable(&self) -> impl Iterator<Item = &Tool> {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(names: &[&str]) -> Tools {
        let tool = |n: &&str| Tool { name: n.to_string(), description: None, parameters: json!({ "type": "object" }) };
        Tools { list: names.iter().map(tool).collect(), choice: Choice::Auto, parallel: true }
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
