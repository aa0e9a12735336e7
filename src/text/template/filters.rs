//! Jinja's filters, and transformers' `tojson`.

use super::json::{Style, dump};
use super::state::{Given, Interpreter};
use super::value::Value;
use super::{Fail, Run, conditions, format, math, methods};
use std::cmp::Ordering;

pub fn apply(run: &mut Interpreter, name: &str, of: Value, given: Given) -> Run<Value> {
    run.budget.work(1)?;
    match name {
        "safe" | "string" => of.print(run.budget).map(Value::Text),
        "escape" | "e" | "forceescape" => escaped(run, &of),
        "lower" | "upper" | "capitalize" | "strip" => {
            let text = Value::Text(of.print(run.budget)?);
            methods::call(run, &text, name, &given)
        }
        "title" => title(run, &of),
        "trim" => {
            let text = Value::Text(of.print(run.budget)?);
            methods::call(run, &text, "strip", &given)
        }
        "center" => {
            let text = Value::Text(of.print(run.budget)?);
            let width = given.get(0, "width").cloned().unwrap_or(Value::Int(80));
            methods::call(run, &text, "center", &Given { list: vec![width], named: vec![] })
        }
        "replace" => {
            let text = Value::Text(of.print(run.budget)?);
            let mut list = vec![];
            for (i, name) in ["old", "new"].into_iter().enumerate() {
                let part = given.get(i, name).ok_or_else(|| Fail::new(format!("replace lacks {name}")))?;
                list.push(Value::Text(part.print(run.budget)?));
            }
            list.extend(given.get(2, "count").filter(|v| !matches!(v, Value::None)).cloned());
            methods::call(run, &text, "replace", &Given { list, named: vec![] })
        }
        "format" => {
            let pattern = of.print(run.budget)?;
            let operands = match given.named.is_empty() {
                true => Value::tuple(given.list, run.budget)?,
                false => Value::dict(given.named.into_iter().map(|(k, v)| (Value::text(k), v)).collect(), run.budget)?,
            };
            format::percent(run, &pattern, &operands)
        }
        "length" | "count" => length(&of).map(Value::Int),
        "wordcount" => Ok(Value::Int(of.print(run.budget)?.split_whitespace().count() as i64)),
        "indent" => indent(run, &of, &given),
        "truncate" => truncate(run, &of, &given),
        "tojson" => tojson(run, &of, &given),
        "default" | "d" => {
            let falsy = given.get(1, "boolean").is_some_and(Value::is_true);
            let missing = matches!(of, Value::Undefined(_)) || (falsy && !of.is_true());
            Ok(if missing { given.get(0, "default_value").cloned().unwrap_or_else(|| Value::text("")) } else { of })
        }
        "abs" => match (&of, of.int()) {
            (_, Some(n)) => {
                n.checked_abs().map(Value::Int).ok_or_else(|| Fail::new("makes a number that is too large"))
            }
            (Value::Float(x), _) => Ok(Value::Float(x.abs())),
            _ => Err(Fail::new(format!("bad operand type for abs(): '{}'", of.kind()))),
        },
        "round" => round(&of, &given),
        "int" => Ok(int(&of, &given)),
        "float" => {
            let default = given.get(0, "default").cloned().unwrap_or(Value::Float(0.0));
            let parsed = of.number().or_else(|| parse_float(of.as_text()?));
            Ok(parsed.map_or(default, Value::Float))
        }
        "attr" => {
            let name = given.get(0, "name").and_then(Value::as_text).ok_or_else(|| Fail::new("attr takes a name"))?;
            // Attributes only: the keys of a dict are none.
            match &of {
                Value::Dict(_) if !methods::has(&of, name) => {
                    Ok(Value::undefined(format!("'dict object' has no attribute '{name}'")))
                }
                of => run.attr(of, name),
            }
        }
        _ => lists(run, name, of, given),
    }
}

/// The items, or those whose attribute, that a test holds for, or does not.
fn chosen(run: &mut Interpreter, name: &str, of: &Value, given: &Given) -> Run<Value> {
    let keeps = name.starts_with("select");
    let by_attribute = name.ends_with("attr");
    let path = given.list.first().filter(|_| by_attribute);
    if by_attribute && path.is_none() {
        return Err(Fail::new(format!("{name} lacks an attribute")));
    }
    let mut out = vec![];
    for item in of.items(run.budget)? {
        let holds = match path {
            Some(path) => {
                let part = path_of(run, &item, path)?;
                tested(run, &part, given, 1)?
            }
            None => tested(run, &item, given, 0)?,
        };
        if holds == keeps {
            out.push(item);
        }
    }
    Value::list(out, run.budget)
}

/// The first of the items that are equal, or equal in an attribute.
fn unique(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let cased = given.get(0, "case_sensitive").is_some_and(Value::is_true);
    let by = given.get(1, "attribute").cloned();
    let (mut keys, mut out): (Vec<Value>, Vec<Value>) = (vec![], vec![]);
    'items: for item in of.items(run.budget)? {
        let key = key_of(run, &item, by.as_ref(), cased)?;
        for seen in &keys {
            if seen.equals(&key, run.budget)? {
                continue 'items;
            }
        }
        keys.push(key);
        out.push(item);
    }
    Value::list(out, run.budget)
}

/// Filters that work on lists and dicts.
fn lists(run: &mut Interpreter, name: &str, of: Value, given: Given) -> Run<Value> {
    match name {
        // Jinja does not look into what is nothing.
        "map" | "select" | "reject" | "selectattr" | "rejectattr" if !of.is_true() => Value::list(vec![], run.budget),
        "list" => {
            let items = of.items(run.budget)?;
            Value::list(items, run.budget)
        }
        "first" => Ok(of
            .items(run.budget)?
            .into_iter()
            .next()
            .unwrap_or_else(|| Value::undefined("No first item, sequence was empty."))),
        "last" => {
            Ok(of.items(run.budget)?.pop().unwrap_or_else(|| Value::undefined("No last item, sequence was empty.")))
        }
        "reverse" => match &of {
            Value::Text(t) => {
                run.budget.make(t.len())?;
                Ok(Value::text(t.chars().rev().collect::<String>()))
            }
            _ => {
                let mut items = of.items(run.budget)?;
                items.reverse();
                Value::list(items, run.budget)
            }
        },
        "items" => match &of {
            Value::Undefined(_) => Value::list(vec![], run.budget),
            Value::Dict(_) => methods::call(run, &of, "items", &given),
            _ => Err(Fail::new("Can only get item pairs from a mapping.")),
        },
        "join" => join(run, &of, &given),
        "map" => map(run, &of, given),
        "select" | "reject" | "selectattr" | "rejectattr" => chosen(run, name, &of, &given),
        "sort" => {
            let reversed = given.get(0, "reverse").is_some_and(Value::is_true);
            let cased = given.get(1, "case_sensitive").is_some_and(Value::is_true);
            let by = given.get(2, "attribute").filter(|v| !matches!(v, Value::None)).cloned();
            let items = sorted(run, of.items(run.budget)?, by.as_ref(), cased, reversed)?;
            Value::list(items, run.budget)
        }
        "min" | "max" => {
            let cased = given.get(0, "case_sensitive").is_some_and(Value::is_true);
            let by = given.get(1, "attribute").cloned();
            let mut items = sorted(run, of.items(run.budget)?, by.as_ref(), cased, name == "max")?;
            Ok(if items.is_empty() {
                Value::undefined("No aggregated item, sequence was empty.")
            } else {
                items.swap_remove(0)
            })
        }
        "unique" => unique(run, &of, &given),
        "groupby" => groupby(run, &of, &given),
        "dictsort" => dictsort(run, &of, &given),
        "sum" => {
            let by = given.get(0, "attribute").filter(|v| !matches!(v, Value::None)).cloned();
            let mut sum = given.get(1, "start").cloned().unwrap_or(Value::Int(0));
            for item in of.items(run.budget)? {
                let part = match &by {
                    Some(path) => path_of(run, &item, path)?,
                    None => item,
                };
                sum = math::apply(run, super::tree::Math::Add, &sum, &part)?;
            }
            Ok(sum)
        }
        "batch" | "slice" => pieces(run, name, &of, &given),
        other => Err(Fail::new(format!("No filter named '{other}'."))),
    }
}

pub fn length(of: &Value) -> Run<i64> {
    Ok(match of {
        Value::Undefined(_) => 0,
        Value::Text(t) => t.chars().count() as i64,
        Value::List(l) | Value::Tuple(l) => l.items.len() as i64,
        Value::Dict(d) => d.pairs.len() as i64,
        other => return Err(Fail::new(format!("object of type '{}' has no len()", other.kind()))),
    })
}

fn escaped(run: &mut Interpreter, of: &Value) -> Run<Value> {
    let text = of.print(run.budget)?;
    run.budget.make(text.len() * 6)?;
    let all = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    Ok(Value::text(all.replace('"', "&#34;").replace('\'', "&#39;")))
}

/// A capital at the beginning of each word, small letters behind it.
fn title(run: &mut Interpreter, of: &Value) -> Run<Value> {
    let text = of.print(run.budget)?;
    run.budget.make(text.len() * 3)?;
    let mut out = String::new();
    let mut starts = true;
    for c in text.chars() {
        match starts {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        starts = c.is_whitespace() || "-({[<".contains(c);
    }
    Ok(Value::text(out))
}

fn indent(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let text = of.print(run.budget)?;
    let width = match given.get(0, "width") {
        Some(Value::Text(t)) => t.to_string(),
        Some(v) => {
            let n = v.int().ok_or_else(|| Fail::new("indent takes a width"))?.max(0) as usize;
            run.budget.make(n)?;
            " ".repeat(n)
        }
        None => "    ".into(),
    };
    let first = given.get(1, "first").is_some_and(Value::is_true);
    let blank = given.get(2, "blank").is_some_and(Value::is_true);
    let whole = format!("{text}\n");
    let lines = methods::lines(&whole, false);
    run.budget.make(text.len() + lines.len() * (width.len() + 1))?;
    let mut out = String::new();
    for (i, line) in lines.iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        let indents = if i == 0 { first } else { blank || !line.is_empty() };
        out.push_str(if indents { &width } else { "" });
        out.push_str(line);
    }
    Ok(Value::text(out))
}

fn truncate(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let text = of.print(run.budget)?;
    run.budget.make(text.len() * 5)?;
    let number = |i, name, default| given.get(i, name).and_then(Value::int).unwrap_or(default).max(0) as usize;
    let (length, leeway) = (number(0, "length", 255), number(3, "leeway", 5));
    let kills = given.get(1, "killwords").is_some_and(Value::is_true);
    let end = given.get(2, "end").and_then(Value::as_text).unwrap_or("...");
    let chars: Vec<char> = text.chars().collect();
    if chars.len() <= length.saturating_add(leeway) {
        return Ok(Value::Text(text));
    }
    let keep = length.saturating_sub(end.chars().count());
    let cut: String = chars[..keep.min(chars.len())].iter().collect();
    let cut = if kills { &cut } else { cut.rsplit_once(' ').map_or(&*cut, |c| c.0) };
    Ok(Value::text(format!("{cut}{end}")))
}

fn tojson(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let given_at = |i, name| given.get(i, name).filter(|v| !matches!(v, Value::None));
    let indent = match given_at(1, "indent") {
        Some(Value::Text(t)) => Some(t.to_string()),
        Some(v) => {
            let n = v.int().ok_or_else(|| Fail::new("tojson takes a number as indent"))?.max(0) as usize;
            run.budget.make(n)?;
            Some(" ".repeat(n))
        }
        None => None,
    };
    let (item, key) = match given_at(2, "separators") {
        Some(both) => {
            let both = both.items(run.budget)?;
            match &both[..] {
                [Value::Text(item), Value::Text(key)] => (item.clone(), key.clone()),
                _ => return Err(Fail::new("tojson takes two texts as separators")),
            }
        }
        None => (if indent.is_some() { "," } else { ", " }.into(), ": ".into()),
    };
    let flag = |i, name| given_at(i, name).is_some_and(Value::is_true);
    let style = Style { ascii: flag(0, "ensure_ascii"), indent, item, key, sorted: flag(3, "sort_keys") };
    dump(of, &style, run.budget).map(Value::text)
}

fn round(of: &Value, given: &Given) -> Run<Value> {
    let precision = given.get(0, "precision").and_then(Value::int).unwrap_or(0).clamp(-308, 308) as i32;
    let method = given.get(1, "method").and_then(Value::as_text).unwrap_or("common");
    let number = of.number().ok_or_else(|| Fail::new(format!("type {} doesn't define __round__ method", of.kind())))?;
    let scale = libm::pow(10.0, precision as f64);
    match (method, of) {
        ("ceil", _) => Ok(Value::Float((number * scale).ceil() / scale)),
        ("floor", _) => Ok(Value::Float((number * scale).floor() / scale)),
        ("common", Value::Float(x)) if precision >= 0 => {
            // Halves go to the even digit, by the float's own exact value.
            let text = format!("{x:.0$}", precision as usize);
            Ok(Value::Float(text.parse().unwrap_or(*x)))
        }
        ("common", Value::Float(x)) => Ok(Value::Float((x * scale).round_ties_even() / scale)),
        ("common", _) if precision >= 0 => Ok(of.int().map_or(Value::None, Value::Int)),
        ("common", _) => Ok(Value::Int(((number * scale).round_ties_even() / scale) as i64)),
        _ => Err(Fail::new("method must be common, ceil or floor")),
    }
}

fn parse_float(text: &str) -> Option<f64> {
    let text = text.trim().replace('_', "");
    text.parse::<f64>().ok()
}

fn int(of: &Value, given: &Given) -> Value {
    let default = given.get(0, "default").cloned().unwrap_or(Value::Int(0));
    let base = given.get(1, "base").and_then(Value::int).unwrap_or(10);
    let whole = |x: f64| (x.is_finite() && x.abs() < 9.2e18).then_some(x as i64);
    let parsed = match of {
        Value::Float(x) => whole(*x),
        Value::Text(t) => {
            let t = t.trim().replace('_', "");
            let digits = match base {
                16 => t.trim_start_matches("0x").trim_start_matches("0X"),
                8 => t.trim_start_matches("0o"),
                2 => t.trim_start_matches("0b"),
                _ => &t,
            };
            let whole_text = u32::try_from(base)
                .ok()
                .filter(|b| (2..=36).contains(b))
                .and_then(|b| i64::from_str_radix(digits, b).ok());
            whole_text.or_else(|| parse_float(&t).and_then(whole))
        }
        other => other.int(),
    };
    parsed.map_or(default, Value::Int)
}

/// `a.b.0` of an item.
fn path_of(run: &mut Interpreter, item: &Value, path: &Value) -> Run<Value> {
    let Some(path) = path.as_text() else { return run.item(item, path) };
    let mut at = item.clone();
    for part in path.split('.') {
        let key = part.parse::<i64>().map_or_else(|_| Value::text(part), Value::Int);
        at = run.item(&at, &key)?;
    }
    Ok(at)
}

fn tested(run: &mut Interpreter, item: &Value, given: &Given, from: usize) -> Run<bool> {
    let Some(name) = given.list.get(from) else { return Ok(item.is_true()) };
    let name = name.as_text().ok_or_else(|| Fail::new("a test is told by its name"))?.to_string();
    let rest = Given { list: given.list[from + 1..].to_vec(), named: given.named.clone() };
    conditions::holds(run, &name, item, &rest)
}

fn join(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let between = given.get(0, "d").map_or(Ok("".into()), |d| d.print(run.budget))?;
    let by = given.get(1, "attribute").filter(|v| !matches!(v, Value::None)).cloned();
    let mut out = String::new();
    for (i, item) in of.items(run.budget)?.into_iter().enumerate() {
        let item = match &by {
            Some(path) => path_of(run, &item, path)?,
            None => item,
        };
        let text = item.print(run.budget)?;
        run.budget.make(text.len() + between.len())?;
        out.push_str(if i > 0 { &between } else { "" });
        out.push_str(&text);
    }
    Ok(Value::text(out))
}

fn map(run: &mut Interpreter, of: &Value, mut given: Given) -> Run<Value> {
    let items = of.items(run.budget)?;
    let mut out = Vec::with_capacity(items.len());
    if let Some(path) = given.named.iter().find(|n| &*n.0 == "attribute").map(|n| n.1.clone()) {
        let default = given.named.iter().find(|n| &*n.0 == "default").map(|n| n.1.clone());
        for item in items {
            let part = path_of(run, &item, &path)?;
            let missing = matches!(part, Value::Undefined(_));
            out.push(default.clone().filter(|_| missing).unwrap_or(part));
        }
        return Value::list(out, run.budget);
    }
    if given.list.is_empty() {
        return Err(Fail::new("map requires a filter argument"));
    }
    let name = given.list.remove(0).as_text().ok_or_else(|| Fail::new("a filter is told by its name"))?.to_string();
    for item in items {
        run.budget.make(given.list.len() * 16)?;
        let own = Given { list: given.list.clone(), named: given.named.clone() };
        let _level = run.budget.enter()?;
        out.push(apply(run, &name, item, own)?);
    }
    Value::list(out, run.budget)
}

/// What an item is ordered by: texts without their case where it does not matter.
fn key_of(run: &mut Interpreter, item: &Value, by: Option<&Value>, cased: bool) -> Run<Value> {
    let key = match by {
        Some(path) if !matches!(path, Value::None) => path_of(run, item, path)?,
        _ => item.clone(),
    };
    Ok(match &key {
        Value::Text(t) if !cased => {
            run.budget.make(t.len() * 3)?;
            Value::text(t.to_lowercase())
        }
        _ => key,
    })
}

fn sorted(
    run: &mut Interpreter,
    items: Vec<Value>,
    by: Option<&Value>,
    cased: bool,
    reversed: bool,
) -> Run<Vec<Value>> {
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        keyed.push((key_of(run, &item, by, cased)?, item));
    }
    let mut failed = None;
    let budget = run.budget;
    keyed.sort_by(|a, b| {
        let order = match failed {
            Some(_) => None,
            None => a.0.compare(&b.0, budget).unwrap_or_else(|e| {
                failed = Some(e);
                None
            }),
        };
        let order = order.unwrap_or(Ordering::Equal);
        if reversed { order.reverse() } else { order }
    });
    match failed {
        Some(e) => Err(e),
        None => Ok(keyed.into_iter().map(|k| k.1).collect()),
    }
}

fn groupby(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let by = given.get(0, "attribute").cloned().ok_or_else(|| Fail::new("groupby lacks an attribute"))?;
    let cased = given.get(2, "case_sensitive").is_some_and(Value::is_true);
    let items = sorted(run, of.items(run.budget)?, Some(&by), cased, false)?;
    let mut groups: Vec<(Value, Value, Vec<Value>)> = vec![];
    for item in items {
        let key = key_of(run, &item, Some(&by), cased)?;
        match groups.last_mut() {
            Some((last, _, all)) if last.equals(&key, run.budget)? => all.push(item),
            _ => {
                let shown = path_of(run, &item, &by)?;
                groups.push((key, shown, vec![item]));
            }
        }
    }
    let mut out = vec![];
    for (_, shown, all) in groups {
        let all = Value::list(all, run.budget)?;
        out.push(Value::tuple(vec![shown, all], run.budget)?);
    }
    Value::list(out, run.budget)
}

fn dictsort(run: &mut Interpreter, of: &Value, given: &Given) -> Run<Value> {
    let Value::Dict(d) = of else { return Err(Fail::new(format!("'{}' object has no items", of.kind()))) };
    let cased = given.get(0, "case_sensitive").is_some_and(Value::is_true);
    let by = match given.get(1, "by").and_then(Value::as_text) {
        None | Some("key") => Value::Int(0),
        Some("value") => Value::Int(1),
        Some(_) => return Err(Fail::new("You can only sort by either \"key\" or \"value\"")),
    };
    let reversed = given.get(2, "reverse").is_some_and(Value::is_true);
    let mut pairs = vec![];
    for (k, v) in &d.pairs {
        pairs.push(Value::tuple(vec![k.clone(), v.clone()], run.budget)?);
    }
    let pairs = sorted(run, pairs, Some(&by), cased, reversed)?;
    Value::list(pairs, run.budget)
}

fn pieces(run: &mut Interpreter, name: &str, of: &Value, given: &Given) -> Run<Value> {
    let items = of.items(run.budget)?;
    let n = given
        .list
        .first()
        .and_then(Value::int)
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| (1..=1 << 20).contains(n));
    let n = n.ok_or_else(|| Fail::new(format!("{name} takes a number from 1 on")))?;
    let fill = given.get(1, "fill_with").filter(|v| !matches!(v, Value::None));
    run.budget.make(n * 64)?;
    let mut out = vec![];
    if name == "batch" {
        for chunk in items.chunks(n) {
            let mut chunk = chunk.to_vec();
            if let Some(fill) = fill {
                chunk.resize(n, fill.clone());
            }
            out.push(Value::list(chunk, run.budget)?);
        }
        return Value::list(out, run.budget);
    }
    let (each, more) = (items.len() / n, items.len() % n);
    let mut at = 0;
    for i in 0..n {
        let size = each + (i < more) as usize;
        let mut chunk = items[at..at + size].to_vec();
        at += size;
        chunk.extend(fill.filter(|_| more > 0 && i >= more).cloned());
        out.push(Value::list(chunk, run.budget)?);
    }
    Value::list(out, run.budget)
}
