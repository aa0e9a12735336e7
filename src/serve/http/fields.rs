//! A request's body, field by field: what nobody has read at the end is refused by its name.

use super::error::{Answered, Refusal};
use crate::base::json;
use serde_json::{Map, Value};

/// The fields of a JSON object that have not been read yet.
pub struct Fields {
    map: Map<String, Value>,
    /// What stands before a name in messages, as `options.`.
    prefix: String,
}

impl Fields {
    /// # Errors
    /// What is no JSON object, nests too deep, or has more values than are read.
    pub fn parse(body: &[u8]) -> Answered<Fields> {
        let wrong = |what: String| Refusal::bad(format!("the body is not a JSON object: {what}")).code("invalid_json");
        match json::parse(body).map_err(|e| wrong(e.to_string()))? {
            Value::Object(map) => Ok(Fields { map, prefix: String::new() }),
            other => Err(wrong(format!("it is {}", kind(&other)))),
        }
    }

    pub fn of(name: &str, value: Value) -> Answered<Fields> {
        match value {
            Value::Object(map) => Ok(Fields { map, prefix: format!("{name}.") }),
            other => Err(Refusal::field(name, format!("is {}, it must be an object", kind(&other)))),
        }
    }

    pub fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn wrong(&self, key: &str, value: &Value, must: &str) -> Refusal {
        let text = value.to_string();
        let shown = if text.len() <= 40 { text } else { kind(value).to_string() };
        Refusal::field(&self.name(key), format!("is {shown}, it must be {must}"))
    }

    /// The value, unless it is missing or null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key).filter(|v| !v.is_null())
    }

    /// Whether it is there, and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }

    pub fn number(&mut self, key: &str, low: f64, high: f64) -> Answered<Option<f32>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        match value.as_f64().filter(|x| (low..=high).contains(x)) {
            Some(x) => Ok(Some(x as f32)),
            None => Err(self.wrong(key, &value, &format!("a number from {low} to {high}"))),
        }
    }

    pub fn whole(&mut self, key: &str, low: i64, high: i64) -> Answered<Option<i64>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        // Some clients write whole numbers as floats.
        let found =
            value.as_i64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64));
        match found.filter(|n| (low..=high).contains(n)) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(key, &value, &format!("a whole number from {low} to {high}"))),
        }
    }

    pub fn flag(&mut self, key: &str) -> Answered<Option<bool>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.wrong(key, &value, "true or false"))
    }

    pub fn text(&mut self, key: &str) -> Answered<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(self.wrong(key, &other, "text")),
        }
    }

    pub fn list(&mut self, key: &str) -> Answered<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => Err(self.wrong(key, &other, "a list")),
        }
    }

    pub fn object(&mut self, key: &str) -> Answered<Option<Fields>> {
        let name = self.name(key);
        self.take(key).map(|v| Fields::of(&name, v)).transpose()
    }

    /// One text or a list of texts.
    pub fn texts(&mut self, key: &str) -> Answered<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        let found = match &value {
            Value::String(s) => Some(vec![s.clone()]),
            Value::Array(list) => list.iter().map(|v| v.as_str().map(String::from)).collect(),
            _ => None,
        };
        found.map(Some).ok_or_else(|| self.wrong(key, &value, "text or a list of texts"))
    }

    /// Takes fields that change nothing here, whatever they hold.
    pub fn ignore(&mut self, harmless: &[&str]) {
        harmless.iter().for_each(|key| drop(self.map.remove(*key)));
    }

    /// Takes a field that may be there with a value that means what is done anyway.
    pub fn only(&mut self, key: &str, values: &[Value], why: &str) -> Answered<()> {
        match self.take(key) {
            Some(value) if !values.contains(&value) => {
                let given: Vec<String> = values.iter().map(Value::to_string).collect();
                Err(Refusal::field(&self.name(key), format!("can only be {}: {why}", given.join(" or "))))
            }
            _ => Ok(()),
        }
    }

    /// # Errors
    /// The first field that nobody has read: it could change the result.
    pub fn finish(self) -> Answered<()> {
        match self.map.iter().find(|(_, v)| !v.is_null()) {
            None => Ok(()),
            Some((key, _)) => {
                let name = format!("{}{}", self.prefix, key.chars().take(60).collect::<String>());
                Err(Refusal {
                    code: Some("unknown_parameter"),
                    ..Refusal::field(&name, "is not known to this server: leave it out")
                })
            }
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a flag",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
