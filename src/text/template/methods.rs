//! Methods of Python's values that change nothing: those that change a list or a dict are not there, as in the sandbox in which
//! transformers runs templates.

use super::state::{Given, Interpreter};
use super::value::{LoopState, Value};
use super::{Fail, Run, format};

const TEXT: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const DICT: &[&str] = &["copy", "get", "items", "keys", "values"];
const LIST: &[&str] = &["copy", "count", "index"];
const LOOP: &[&str] = &["cycle", "changed"];

/// Whether a value has such a method.
pub fn has(of: &Value, name: &str) -> bool {
    match of {
        Value::Text(_) => TEXT.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::List(_) => LIST.contains(&name),
        Value::Tuple(_) => ["count", "index"].contains(&name),
        Value::Loop(_) => LOOP.contains(&name),
        Value::Float(_) => name == "is_integer",
        _ => false,
    }
}

pub fn call(run: &mut Interpreter, of: &Value, name: &str, given: &Given) -> Run<Value> {
    run.budget.work(1)?;
    match of {
        Value::Text(t) => text(run, t, name, given),
        Value::Dict(d) => match name {
            "get" => {
                let key = given.get(0, "key").cloned().unwrap_or(Value::None);
                let found = d.find(&key, run.budget)?.cloned();
                Ok(found.unwrap_or_else(|| given.get(1, "default").cloned().unwrap_or(Value::None)))
            }
            "items" => {
                let mut out = Vec::with_capacity(d.pairs.len());
                for (k, v) in &d.pairs {
                    out.push(Value::tuple(vec![k.clone(), v.clone()], run.budget)?);
                }
                Value::list(out, run.budget)
            }
            "values" => Value::list(d.pairs.iter().map(|p| p.1.clone()).collect(), run.budget),
            "keys" => Value::list(d.pairs.iter().map(|p| p.0.clone()).collect(), run.budget),
            _ => Ok(of.clone()),
        },
        Value::List(l) | Value::Tuple(l) => {
            let Some(item) = given.list.first() else { return Ok(of.clone()) };
            let (mut count, mut at) = (0, None);
            for (i, x) in l.items.iter().enumerate() {
                if x.equals(item, run.budget)? {
                    count += 1;
                    at = at.or(Some(i as i64));
                }
            }
            match name {
                "count" => Ok(Value::Int(count)),
                _ => at.map(Value::Int).ok_or_else(|| Fail::new("the value is not in the list")),
            }
        }
        Value::Loop(state) if name == "cycle" => match given.list.len() {
            0 => Err(Fail::new("no items for cycling given")),
            n => Ok(given.list[state.index.get() % n].clone()),
        },
        Value::Loop(state) => {
            let now = Value::tuple(given.list.clone(), run.budget)?;
            let mut before = state.changed.borrow_mut();
            let same = match &*before {
                Some(b) => b.equals(&now, run.budget)?,
                None => false,
            };
            *before = Some(now);
            Ok(Value::Bool(!same))
        }
        Value::Float(x) => Ok(Value::Bool(x.fract() == 0.0)),
        other => Err(Fail::new(format!("'{} object' has no attribute '{name}'", other.kind()))),
    }
}

/// What a loop knows of itself.
pub fn of_loop(l: &LoopState, name: &str) -> Option<Value> {
    let (i, n) = (l.index.get(), l.items.items.len());
    let near = |at: Option<usize>, what: &str| {
        at.and_then(|at| l.items.items.get(at).cloned())
            .unwrap_or_else(|| Value::undefined(format!("there is no {what} item")))
    };
    Some(match name {
        "index" => Value::Int(i as i64 + 1),
        "index0" => Value::Int(i as i64),
        "revindex" => Value::Int((n - i) as i64),
        "revindex0" => Value::Int((n - i) as i64 - 1),
        "first" => Value::Bool(i == 0),
        "last" => Value::Bool(i + 1 == n),
        "length" => Value::Int(n as i64),
        "depth" => Value::Int(l.depth as i64),
        "depth0" => Value::Int(l.depth as i64 - 1),
        "previtem" => near(i.checked_sub(1), "previous"),
        "nextitem" => near(Some(i + 1), "next"),
        _ => return None,
    })
}

/// Lines of a text, with what ends them where `keeps`.
pub fn lines(text: &str, keeps: bool) -> Vec<&str> {
    let mut out = vec![];
    let mut rest = text;
    while !rest.is_empty() {
        let ends = |c: char| {
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
        };
        let at = rest.find(ends).unwrap_or(rest.len());
        let end = if rest[at..].starts_with("\r\n") { 2 } else { rest[at..].chars().next().map_or(0, char::len_utf8) };
        out.push(if keeps { &rest[..at + end] } else { &rest[..at] });
        rest = &rest[at + end..];
    }
    out
}

fn text(run: &mut Interpreter, t: &str, name: &str, given: &Given) -> Run<Value> {
    run.budget.work(t.len() as u64 / 16)?;
    let part = |i: usize, name: &str| match given.get(i, name) {
        None | Some(Value::None) => Ok(None),
        Some(Value::Text(t)) => Ok(Some(t.clone())),
        Some(other) => Err(Fail::new(format!("must be str, not {}", other.kind()))),
    };
    let want = |i: usize| part(i, "").and_then(|p| p.ok_or_else(|| Fail::new(format!("{name}() lacks an argument"))));
    let number = |i: usize, name: &str, default: i64| match given.get(i, name) {
        None | Some(Value::None) => Ok(default),
        Some(v) => {
            v.int().ok_or_else(|| Fail::new(format!("'{}' object cannot be interpreted as an integer", v.kind())))
        }
    };
    // What grows is at most three times as long: letters that have no small or capital form of their own.
    run.budget.make(t.len())?;
    Ok(match name {
        "strip" | "lstrip" | "rstrip" => {
            let set = part(0, "chars")?;
            run.budget.work(set.as_ref().map_or(0, |s| s.len() as u64 * t.len().min(4096) as u64 / 64))?;
            let strips = |c: char| {
                set.as_ref().map_or(c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c), |s| s.contains(c))
            };
            let t = if name != "rstrip" { t.trim_start_matches(strips) } else { t };
            Value::text(if name != "lstrip" { t.trim_end_matches(strips) } else { t })
        }
        "upper" | "lower" | "casefold" | "swapcase" | "title" | "capitalize" => {
            run.budget.make(t.len() * 3)?;
            Value::text(cased(t, name))
        }
        "startswith" | "endswith" => {
            let starts = |p: &str| if name == "startswith" { t.starts_with(p) } else { t.ends_with(p) };
            match given.list.first() {
                Some(Value::Tuple(all)) => Value::Bool(all.items.iter().any(|p| p.as_text().is_some_and(starts))),
                _ => Value::Bool(starts(&want(0)?)),
            }
        }
        "removeprefix" => Value::text(t.strip_prefix(&*want(0)?).unwrap_or(t)),
        "removesuffix" => Value::text(t.strip_suffix(&*want(0)?).unwrap_or(t)),
        "replace" => {
            let (from, to) = (want(0)?, want(1)?);
            let most = usize::try_from(number(2, "count", -1)?).unwrap_or(usize::MAX);
            let found = t.matches(&*from).count().min(most);
            run.budget.make(t.len() + found.saturating_mul(to.len()))?;
            Value::text(t.replacen(&*from, &to, most))
        }
        "join" => {
            let mut out = String::new();
            for (i, item) in given.list.first().unwrap_or(&Value::None).items(run.budget)?.iter().enumerate() {
                let item = item.as_text().ok_or_else(|| {
                    Fail::new(format!("sequence item {i}: expected str instance, {} found", item.kind()))
                })?;
                run.budget.make(t.len() + item.len())?;
                out.push_str(if i > 0 { t } else { "" });
                out.push_str(item);
            }
            Value::text(out)
        }
        "split" | "rsplit" => {
            let most = usize::try_from(number(1, "maxsplit", -1)?).unwrap_or(usize::MAX);
            let parts = split(t, part(0, "sep")?.as_deref(), most, name == "rsplit")?;
            run.budget.make(t.len() + parts.len() * 48)?;
            Value::list(parts.into_iter().map(Value::text).collect(), run.budget)?
        }
        "splitlines" => {
            let parts = lines(t, given.get(0, "keepends").is_some_and(Value::is_true));
            run.budget.make(t.len() + parts.len() * 48)?;
            Value::list(parts.into_iter().map(Value::text).collect(), run.budget)?
        }
        "partition" | "rpartition" => Value::tuple(partition(t, &want(0)?, name)?, run.budget)?,
        "find" | "rfind" | "index" | "rindex" => found(t, &want(0)?, name)?,
        "count" => Value::Int(t.matches(&*want(0)?).count() as i64),
        "format" => format::braces(run, t, given)?,
        "center" | "ljust" | "rjust" | "zfill" => {
            padded(run, t, name, number(0, "width", 0)?, part(1, "fillchar")?.as_deref())?
        }
        _ => Value::Bool(is_all(t, name)),
    })
}

/// What stands before a separator, the separator, and what stands behind it.
fn partition(t: &str, by: &str, name: &str) -> Run<Vec<Value>> {
    if by.is_empty() {
        return Err(Fail::new("empty separator"));
    }
    let cut = if name == "partition" { t.split_once(by) } else { t.rsplit_once(by) };
    let parts = match (cut, name) {
        (Some((a, b)), _) => [a, by, b],
        (None, "partition") => [t, "", ""],
        (None, _) => ["", "", t],
    };
    Ok(parts.map(Value::text).to_vec())
}

/// Where a text stands in another, in characters.
fn found(t: &str, by: &str, name: &str) -> Run<Value> {
    let at = if name.starts_with('r') { t.rfind(by) } else { t.find(by) };
    match at {
        Some(at) => Ok(Value::Int(t[..at].chars().count() as i64)),
        None if name.ends_with("index") => Err(Fail::new("substring not found")),
        None => Ok(Value::Int(-1)),
    }
}

/// The pieces between a separator, or between white space.
fn split(t: &str, by: Option<&str>, most: usize, from_end: bool) -> Run<Vec<String>> {
    let own = |s: &str| s.to_string();
    Ok(match (by, from_end) {
        (Some(""), _) => return Err(Fail::new("empty separator")),
        (Some(by), false) => t.splitn(most.saturating_add(1), by).map(own).collect(),
        (Some(by), true) => {
            let mut parts: Vec<String> = t.rsplitn(most.saturating_add(1), by).map(own).collect();
            parts.reverse();
            parts
        }
        (None, false) => {
            let (mut out, mut rest) = (vec![], t.trim_start());
            while !rest.is_empty() && out.len() < most {
                let at = rest.find(char::is_whitespace).unwrap_or(rest.len());
                out.push(own(&rest[..at]));
                rest = rest[at..].trim_start();
            }
            // Python keeps the white space behind what is left over.
            out.extend((!rest.is_empty()).then(|| own(rest)));
            out
        }
        (None, true) => {
            let (mut out, mut rest) = (vec![], t.trim_end());
            while !rest.is_empty() && out.len() < most {
                let at = rest
                    .rfind(char::is_whitespace)
                    .map_or(0, |i| i + rest[i..].chars().next().map_or(1, char::len_utf8));
                out.push(own(&rest[at..]));
                rest = rest[..at].trim_end();
            }
            out.extend((!rest.is_empty()).then(|| own(rest)));
            out.reverse();
            out
        }
    })
}

fn cased(t: &str, name: &str) -> String {
    match name {
        "upper" => t.to_uppercase(),
        "lower" | "casefold" => t.to_lowercase(),
        "swapcase" => t
            .chars()
            .flat_map(
                |c| if c.is_uppercase() { c.to_lowercase().collect::<Vec<_>>() } else { c.to_uppercase().collect() },
            )
            .collect(),
        "capitalize" => {
            let mut chars = t.chars();
            let first = chars.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
            first + &chars.as_str().to_lowercase()
        }
        _ => {
            let mut out = String::new();
            let mut within = false;
            for c in t.chars() {
                match within {
                    true => out.extend(c.to_lowercase()),
                    false => out.extend(c.to_uppercase()),
                }
                within = c.is_alphabetic();
            }
            out
        }
    }
}

fn padded(run: &mut Interpreter, t: &str, name: &str, width: i64, fill: Option<&str>) -> Run<Value> {
    let n = t.chars().count();
    let more = usize::try_from(width).unwrap_or(0).saturating_sub(n);
    let fill = fill.and_then(|f| f.chars().next()).unwrap_or(' ');
    run.budget.make(t.len().saturating_add(more.saturating_mul(4)))?;
    let pad = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(Value::text(match name {
        "ljust" => format!("{t}{}", pad(more)),
        "rjust" => format!("{}{t}", pad(more)),
        "center" => {
            let left = more / 2 + (more & width as usize & 1);
            format!("{}{t}{}", pad(left), pad(more - left))
        }
        _ => {
            let (sign, digits) = t.split_at(t.starts_with(['+', '-']) as usize);
            format!("{sign}{}{digits}", "0".repeat(more))
        }
    }))
}

fn is_all(t: &str, name: &str) -> bool {
    let all = |f: fn(char) -> bool| !t.is_empty() && t.chars().all(f);
    match name {
        "isalnum" => all(char::is_alphanumeric),
        "isalpha" => all(char::is_alphabetic),
        "isascii" => t.is_ascii(),
        "isdecimal" | "isdigit" => all(|c| c.is_ascii_digit()),
        "isnumeric" => all(char::is_numeric),
        "isspace" => all(char::is_whitespace),
        "islower" => t.chars().any(char::is_lowercase) && !t.chars().any(char::is_uppercase),
        "isupper" => t.chars().any(char::is_uppercase) && !t.chars().any(char::is_lowercase),
        _ => {
            let cased_is = |c: char, within: bool| !within || !c.is_uppercase();
            let mut within = false;
            let mut any = false;
            let holds = t.chars().all(|c| {
                let fits = if c.is_lowercase() { within } else { cased_is(c, within) };
                within = c.is_lowercase() || c.is_uppercase();
                any |= within;
                fits
            });
            holds && any
        }
    }
}
