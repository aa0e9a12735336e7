//! Jinja's tests: what stands behind `is`.

use super::state::{Given, Interpreter};
use super::tree::Comparison;
use super::value::Value;
use super::{Fail, Run, math};

pub fn holds(run: &mut Interpreter, name: &str, of: &Value, given: &Given) -> Run<bool> {
    run.budget.work(1)?;
    let other = || given.list.first().ok_or_else(|| Fail::new(format!("test {name} lacks an operand")));
    let compared = match name {
        "eq" | "equalto" | "==" => Some(Comparison::Eq),
        "ne" | "!=" => Some(Comparison::Ne),
        "lt" | "lessthan" | "<" => Some(Comparison::Lt),
        "le" | "<=" => Some(Comparison::Le),
        "gt" | "greaterthan" | ">" => Some(Comparison::Gt),
        "ge" | ">=" => Some(Comparison::Ge),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(op) = compared {
        let other = other()?.clone();
        return math::compare(run, op, of, &other);
    }
    let whole = || of.int().ok_or_else(|| Fail::new(format!("test {name} takes an integer, not '{}'", of.kind())));
    Ok(match name {
        "defined" => !matches!(of, Value::Undefined(_)),
        "undefined" => matches!(of, Value::Undefined(_)),
        "none" => matches!(of, Value::None),
        "boolean" => matches!(of, Value::Bool(_)),
        "true" => matches!(of, Value::Bool(true)),
        "false" => matches!(of, Value::Bool(false)),
        // Python's bool is no `integer` here, but it is a `number`.
        "integer" => matches!(of, Value::Int(_)),
        "float" => matches!(of, Value::Float(_)),
        "number" => of.number().is_some(),
        "string" => matches!(of, Value::Text(_)),
        "mapping" => matches!(of, Value::Dict(_)),
        "iterable" => {
            matches!(of, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "sequence" => {
            matches!(of, Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Dict(_) | Value::Undefined(_))
        }
        "callable" => matches!(of, Value::Macro(_) | Value::Function(_) | Value::Method(_)),
        "odd" => whole()?.rem_euclid(2) == 1,
        "even" => whole()?.rem_euclid(2) == 0,
        "divisibleby" => {
            let by = other()?.int().filter(|n| *n != 0).ok_or_else(|| Fail::new("integer modulo by zero"))?;
            whole()?.wrapping_rem(by) == 0
        }
        "lower" | "upper" => {
            let text = of.print(run.budget)?;
            let cased = text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
            cased && !text.chars().any(|c| if name == "lower" { c.is_uppercase() } else { c.is_lowercase() })
        }
        "sameas" => match (of, other()?) {
            (Value::None, Value::None) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (Value::Text(a), Value::Text(b)) => std::rc::Rc::ptr_eq(a, b) || a == b,
            (Value::List(a), Value::List(b)) => std::rc::Rc::ptr_eq(a, b),
            (Value::Dict(a), Value::Dict(b)) => std::rc::Rc::ptr_eq(a, b),
            _ => false,
        },
        "escaped" => false,
        "filter" => of.as_text().is_some_and(|n| FILTERS.contains(&n)),
        "test" => of.as_text().is_some_and(|n| TESTS.contains(&n)),
        other => return Err(Fail::new(format!("No test named '{other}'."))),
    })
}

const TESTS: &[&str] = &[
    "eq",
    "equalto",
    "==",
    "ne",
    "!=",
    "lt",
    "lessthan",
    "<",
    "le",
    "<=",
    "gt",
    "greaterthan",
    ">",
    "ge",
    ">=",
    "in",
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "number",
    "string",
    "mapping",
    "iterable",
    "sequence",
    "callable",
    "odd",
    "even",
    "divisibleby",
    "lower",
    "upper",
    "sameas",
    "escaped",
    "filter",
    "test",
];

const FILTERS: &[&str] = &[
    "safe",
    "string",
    "escape",
    "e",
    "forceescape",
    "lower",
    "upper",
    "capitalize",
    "title",
    "trim",
    "center",
    "replace",
    "format",
    "length",
    "count",
    "wordcount",
    "indent",
    "truncate",
    "tojson",
    "default",
    "d",
    "abs",
    "round",
    "int",
    "float",
    "attr",
    "list",
    "first",
    "last",
    "reverse",
    "items",
    "join",
    "map",
    "select",
    "reject",
    "selectattr",
    "rejectattr",
    "sort",
    "min",
    "max",
    "unique",
    "groupby",
    "dictsort",
    "sum",
    "batch",
    "slice",
];
