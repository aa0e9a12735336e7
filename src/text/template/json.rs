//! Values as JSON, as Python's `json.dumps` writes them: what models were trained on.

use super::value::{Value, float};
use super::{Fail, Run};
use crate::base::Budget;
use std::rc::Rc;

/// How `tojson` is asked to write.
pub struct Style {
    pub ascii: bool,
    pub indent: Option<String>,
    pub item: Rc<str>,
    pub key: Rc<str>,
    pub sorted: bool,
}

pub fn dump(value: &Value, style: &Style, budget: &Budget) -> Run<String> {
    let mut out = String::new();
    write(value, style, 0, &mut out, budget)?;
    Ok(out)
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String, budget: &Budget) -> Run<()> {
    budget.make(8)?;
    budget.work(1)?;
    budget.fits(out.len())?;
    match value {
        Value::None => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Int(n) => out.push_str(&n.to_string()),
        Value::Float(x) => out.push_str(&number(*x)),
        Value::Text(t) => string(t, style, out, budget)?,
        Value::List(l) | Value::Tuple(l) => {
            if l.items.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            out.push('[');
            for (i, item) in l.items.iter().enumerate() {
                separate(i, style, depth + 1, out, budget)?;
                write(item, style, depth + 1, out, budget)?;
            }
            newline(style, depth, out, budget)?;
            out.push(']');
        }
        Value::Dict(d) => {
            if d.pairs.is_empty() {
                out.push_str("{}");
                return Ok(());
            }
            out.push('{');
            let mut pairs: Vec<&(Value, Value)> = d.pairs.iter().collect();
            if style.sorted {
                let mut failed = None;
                pairs.sort_by(|a, b| match a.0.compare(&b.0, budget) {
                    Ok(order) => order.unwrap_or(std::cmp::Ordering::Equal),
                    Err(e) => {
                        failed = Some(e);
                        std::cmp::Ordering::Equal
                    }
                });
                failed.map_or(Ok(()), Err)?;
            }
            for (i, (key, value)) in pairs.into_iter().enumerate() {
                separate(i, style, depth + 1, out, budget)?;
                match key {
                    Value::Text(t) => string(t, style, out, budget)?,
                    Value::Int(n) => out.push_str(&format!("\"{n}\"")),
                    Value::Float(x) => out.push_str(&format!("\"{}\"", number(*x))),
                    Value::Bool(b) => out.push_str(if *b { "\"true\"" } else { "\"false\"" }),
                    Value::None => out.push_str("\"null\""),
                    other => {
                        return Err(Fail::new(format!(
                            "keys must be str, int, float, bool or None, not {}",
                            other.kind()
                        )));
                    }
                }
                out.push_str(&style.key);
                write(value, style, depth + 1, out, budget)?;
            }
            newline(style, depth, out, budget)?;
            out.push('}');
        }
        other => return Err(Fail::new(format!("Object of type {} is not JSON serializable", other.kind()))),
    }
    Ok(())
}

fn separate(i: usize, style: &Style, depth: usize, out: &mut String, budget: &Budget) -> Run<()> {
    if i > 0 {
        out.push_str(&style.item);
    }
    newline(style, depth, out, budget)
}

fn newline(style: &Style, depth: usize, out: &mut String, budget: &Budget) -> Run<()> {
    if let Some(indent) = &style.indent {
        budget.make(1 + indent.len() * depth)?;
        out.push('\n');
        (0..depth).for_each(|_| out.push_str(indent));
    }
    Ok(())
}

fn number(x: f64) -> String {
    match x {
        x if x.is_nan() => "NaN".into(),
        f64::INFINITY => "Infinity".into(),
        f64::NEG_INFINITY => "-Infinity".into(),
        x => float(x),
    }
}

fn string(text: &str, style: &Style, out: &mut String, budget: &Budget) -> Run<()> {
    budget.make(text.len() * if style.ascii { 6 } else { 2 })?;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            c if style.ascii && !c.is_ascii() => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|u| out.push_str(&format!("\\u{u:04x}")));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}
