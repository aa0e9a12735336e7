//! Operators, as Python has them.

use super::state::Interpreter;
use super::tree::{Comparison, Math, Sign};
use super::value::Value;
use super::{Fail, Run, format};
use std::cmp::Ordering;

pub fn signed(sign: Sign, of: &Value) -> Run<Value> {
    if sign == Sign::Not {
        return Ok(Value::Bool(!of.is_true()));
    }
    of.defined()?;
    match (of, sign) {
        (Value::Float(x), Sign::Minus) => Ok(Value::Float(-x)),
        (Value::Float(x), _) => Ok(Value::Float(*x)),
        (of, sign) => {
            let n = of.int().ok_or_else(|| Fail::new(format!("bad operand type for a sign: '{}'", of.kind())))?;
            let n = if sign == Sign::Minus { n.checked_neg() } else { Some(n) };
            n.map(Value::Int).ok_or_else(large)
        }
    }
}

fn large() -> Fail {
    Fail::new("makes a number that is too large")
}

pub fn apply(run: &mut Interpreter, op: Math, a: &Value, b: &Value) -> Run<Value> {
    a.defined()?;
    b.defined()?;
    match (op, a, b) {
        (Math::Add, Value::Text(x), Value::Text(y)) => {
            run.budget.make(x.len() + y.len())?;
            return Ok(Value::text([&**x, &**y].concat()));
        }
        (Math::Add, Value::List(x), Value::List(y)) => {
            run.budget.make((x.items.len() + y.items.len()) * 16)?;
            return Value::list(x.items.iter().chain(&y.items).cloned().collect(), run.budget);
        }
        (Math::Add, Value::Tuple(x), Value::Tuple(y)) => {
            run.budget.make((x.items.len() + y.items.len()) * 16)?;
            return Value::tuple(x.items.iter().chain(&y.items).cloned().collect(), run.budget);
        }
        (Math::Mul, Value::Text(_) | Value::List(_) | Value::Tuple(_), n) => return repeat(run, a, n),
        (Math::Mul, n, Value::Text(_) | Value::List(_) | Value::Tuple(_)) => return repeat(run, b, n),
        (Math::Rem, Value::Text(pattern), operands) => return format::percent(run, pattern, operands),
        _ => {}
    }
    match (a.int(), b.int(), a.number(), b.number()) {
        (Some(x), Some(y), ..) if op != Math::Div => whole(op, x, y),
        (_, _, Some(x), Some(y)) => real(op, x, y).map(Value::Float),
        _ => {
            let (a, b) = (a.kind(), b.kind());
            Err(Fail::new(format!("unsupported operand types: '{a}' and '{b}'")))
        }
    }
}

fn repeat(run: &mut Interpreter, of: &Value, times: &Value) -> Run<Value> {
    let times = times
        .int()
        .ok_or_else(|| Fail::new(format!("can't multiply sequence by non-int of type '{}'", times.kind())))?;
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match of {
        Value::Text(t) => {
            run.budget.make(t.len().saturating_mul(times))?;
            Ok(Value::text(t.repeat(times)))
        }
        Value::List(l) | Value::Tuple(l) => {
            run.budget.make(l.items.len().saturating_mul(times).saturating_mul(16))?;
            let times = if l.items.is_empty() { 0 } else { times };
            let items = std::iter::repeat_n(&l.items, times).flatten().cloned().collect();
            if matches!(of, Value::Tuple(_)) { Value::tuple(items, run.budget) } else { Value::list(items, run.budget) }
        }
        _ => Err(Fail::new("can't be repeated")),
    }
}

fn whole(op: Math, x: i64, y: i64) -> Run<Value> {
    if y == 0 && matches!(op, Math::Floor | Math::Rem) {
        return Err(Fail::new("integer division or modulo by zero"));
    }
    let made = match op {
        Math::Add => x.checked_add(y),
        Math::Sub => x.checked_sub(y),
        Math::Mul => x.checked_mul(y),
        // Python rounds down, and a remainder has the divisor's sign.
        Math::Floor => x.checked_div(y).map(|q| q - (x.wrapping_rem(y) != 0 && (x < 0) != (y < 0)) as i64),
        Math::Rem => Some(x.wrapping_rem(y)).map(|r| if r != 0 && (r < 0) != (y < 0) { r + y } else { r }),
        Math::Pow if y < 0 => return real(op, x as f64, y as f64).map(Value::Float),
        Math::Pow => u32::try_from(y).ok().and_then(|y| x.checked_pow(y)),
        Math::Div => None,
    };
    made.map(Value::Int).ok_or_else(large)
}

fn real(op: Math, x: f64, y: f64) -> Run<f64> {
    if y == 0.0 && matches!(op, Math::Floor | Math::Rem | Math::Div) {
        return Err(Fail::new("division by zero"));
    }
    Ok(match op {
        Math::Add => x + y,
        Math::Sub => x - y,
        Math::Mul => x * y,
        Math::Div => x / y,
        Math::Floor => (x / y).floor(),
        Math::Rem => {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        Math::Pow => libm::pow(x, y),
    })
}

pub fn compare(run: &mut Interpreter, op: Comparison, a: &Value, b: &Value) -> Run<bool> {
    Ok(match op {
        Comparison::Eq => a.equals(b, run.budget)?,
        Comparison::Ne => !a.equals(b, run.budget)?,
        Comparison::In => contains(run, b, a)?,
        Comparison::NotIn => !contains(run, b, a)?,
        _ => {
            let order = a.compare(b, run.budget)?;
            match op {
                Comparison::Lt => order == Some(Ordering::Less),
                Comparison::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                Comparison::Gt => order == Some(Ordering::Greater),
                _ => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
            }
        }
    })
}

/// Whether `item` is in `all`.
pub fn contains(run: &mut Interpreter, all: &Value, item: &Value) -> Run<bool> {
    match all {
        Value::Text(text) => {
            let part = item.as_text().ok_or_else(|| {
                Fail::new(format!("'in <string>' requires string as left operand, not {}", item.kind()))
            })?;
            run.budget.work((text.len() + part.len()) as u64 / 16)?;
            Ok(text.contains(part))
        }
        Value::List(l) | Value::Tuple(l) => {
            for x in &l.items {
                if x.equals(item, run.budget)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Dict(d) => Ok(d.find(item, run.budget)?.is_some()),
        Value::Undefined(_) => Ok(false),
        other => Err(Fail::new(format!("argument of type '{}' is not iterable", other.kind()))),
    }
}

/// The place of an index that may count from the end.
pub fn index(len: usize, at: i64) -> Option<usize> {
    let at = if at < 0 { at.checked_add(i64::try_from(len).ok()?)? } else { at };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// The places that `[from:to:by]` takes.
pub fn slice(len: usize, [from, to, by]: [Option<i64>; 3]) -> Run<Vec<usize>> {
    let (n, by) = (len as i64, by.unwrap_or(1));
    if by == 0 {
        return Err(Fail::new("slice step cannot be zero"));
    }
    let place = |at: i64, low: i64, high: i64| (if at < 0 { at.saturating_add(n) } else { at }).clamp(low, high);
    let (low, high) = if by > 0 { (0, n) } else { (-1, n - 1) };
    let start = from.map_or(if by > 0 { low } else { high }, |at| place(at, low, high));
    let end = to.map_or(if by > 0 { high } else { low }, |at| place(at, low, high));
    let mut out = vec![];
    let mut at = start;
    while if by > 0 { at < end } else { at > end } {
        out.push(at as usize);
        at = at.saturating_add(by);
    }
    Ok(out)
}
