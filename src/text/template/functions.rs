//! The functions that templates find: those of Jinja, and those that transformers adds.

use super::state::{Given, Interpreter};
use super::value::Value;
use super::{Fail, Run, clock};
use std::cell::RefCell;
use std::rc::Rc;

/// The longest that `range` may be: what Jinja's sandbox allows.
const MAX_RANGE: i64 = 100_000;

pub fn call(run: &mut Interpreter, name: &str, given: Given) -> Run<Value> {
    match name {
        "range" => range(run, &given),
        "dict" => {
            let mut pairs = vec![];
            for given in &given.list {
                match given {
                    Value::Dict(d) => {
                        run.budget.make(d.pairs.len() * 32)?;
                        pairs.extend(d.pairs.iter().cloned());
                    }
                    other => {
                        for pair in other.items(run.budget)? {
                            let both = pair.items(run.budget)?;
                            let [k, v] = &both[..] else { return Err(Fail::new("dict takes pairs")) };
                            pairs.push((k.clone(), v.clone()));
                        }
                    }
                }
            }
            pairs.extend(given.named.into_iter().map(|(k, v)| (Value::text(k), v)));
            Value::dict(pairs, run.budget)
        }
        "namespace" => {
            let made = call(run, "dict", given)?;
            if made.has_namespace() {
                return Err(Fail::new("a namespace holds a namespace, which templates may not here"));
            }
            let Value::Dict(d) = made else { return Ok(made) };
            let all = d.pairs.iter().filter_map(|(k, v)| Some((Rc::from(k.as_text()?), v.clone()))).collect();
            Ok(Value::Namespace(Rc::new(RefCell::new(all))))
        }
        "raise_exception" => {
            let what = given.get(0, "message").unwrap_or(&Value::None).print(run.budget)?;
            Err(Fail::new(what.to_string()))
        }
        "strftime_now" => {
            let pattern = given
                .get(0, "format")
                .and_then(Value::as_text)
                .ok_or_else(|| Fail::new("strftime_now takes a format"))?;
            run.budget.make(pattern.len() * 16)?;
            Ok(Value::text(clock::now().format(pattern)))
        }
        other => Err(Fail::new(format!("'{other}' is undefined"))),
    }
}

fn range(run: &mut Interpreter, given: &Given) -> Run<Value> {
    let whole = |i: usize| {
        let value = given.list.get(i);
        value
            .map(|v| {
                v.int().ok_or_else(|| Fail::new(format!("'{}' object cannot be interpreted as an integer", v.kind())))
            })
            .transpose()
    };
    let (from, to, by) = match (whole(0)?, whole(1)?, whole(2)?) {
        (Some(to), None, _) => (0, to, 1),
        (Some(from), Some(to), by) => (from, to, by.unwrap_or(1)),
        _ => return Err(Fail::new("range expected at least 1 argument")),
    };
    if by == 0 {
        return Err(Fail::new("range() arg 3 must not be zero"));
    }
    let span = if by > 0 { to.saturating_sub(from) } else { from.saturating_sub(to) };
    let n = if span <= 0 { 0 } else { (span - 1) / by.saturating_abs() + 1 };
    if n > MAX_RANGE {
        return Err(Fail::new(format!(
            "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."
        )));
    }
    run.budget.make(n as usize * 16)?;
    Value::list((0..n).map(|i| Value::Int(from.saturating_add(i.saturating_mul(by)))).collect(), run.budget)
}
