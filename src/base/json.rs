//! JSON of small files: a value that takes some ten bytes in the file takes a hundred in memory, so values are counted.

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::fmt;

/// The most values of a configuration: some ten times what the largest have.
const MAX_VALUES: usize = 1 << 18;

/// Parses a configuration.
///
/// # Errors
/// What is no JSON, nests deeper than the parser goes, or has more values than any configuration.
pub fn parse(bytes: &[u8]) -> serde_json::Result<Value> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Few(&mut { MAX_VALUES }).deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// A value of at most as many parts as are left; what it has is taken off.
pub struct Few<'a>(pub &'a mut usize);

impl<'de> DeserializeSeed<'de> for Few<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> std::result::Result<Value, D::Error> {
        match self.0.checked_sub(1) {
            Some(left) => *self.0 = left,
            None => return Err(D::Error::custom("there are more values than are read")),
        }
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Few<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, v: bool) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> std::result::Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut out = vec![];
        while let Some(v) = list.next_element_seed(Few(self.0))? {
            out.push(v);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            out.insert(key, map.next_value_seed(Few(self.0))?);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted() {
        let text = r#"{"a": [1, -2, 2.5, "x", null, true], "b": {"c": {}}}"#;
        assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        for one in ["0,", "[],", "{},", "[0],", "\"\","] {
            let many = format!("[{}0]", one.repeat(MAX_VALUES));
            assert!(parse(many.as_bytes()).unwrap_err().to_string().contains("more values"), "{one}");
        }
        assert!(parse(format!("{}{}", "[".repeat(1000), "]".repeat(1000)).as_bytes()).is_err());
        assert!(parse(b"{} {}").is_err());
    }
}
