//! `'%s' % x` and `'{}'.format(x)`.

use super::state::{Given, Interpreter};
use super::value::{Value, float};
use super::{Fail, Run};

/// The widest that a field may be asked for.
const MAX_WIDTH: usize = 1 << 20;

/// How one value is to be written.
#[derive(Default)]
struct Spec {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    width: usize,
    comma: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

/// `pattern % operands`
pub fn percent(run: &mut Interpreter, pattern: &str, operands: &Value) -> Run<Value> {
    let list: Vec<Value> = match operands {
        Value::Tuple(l) => l.items.clone(),
        other => vec![other.clone()],
    };
    let (mut next, mut out) = (list.iter(), String::new());
    let mut chars = pattern.chars().peekable();
    let mut used_name = matches!(operands, Value::Dict(_));
    while let Some(c) = chars.next() {
        run.budget.make(4)?;
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut named = None;
        if chars.peek() == Some(&'(') {
            chars.next();
            let name: String = chars.by_ref().take_while(|c| *c != ')').collect();
            named = Some(operands.get(&name).cloned().ok_or_else(|| Fail::new(format!("'{name}' is not there")))?);
        }
        let mut spec = Spec::default();
        while let Some(c) = chars.next_if(|c| "-+ #0".contains(*c)) {
            match c {
                '-' => spec.align = Some('<'),
                '0' => spec.zero = true,
                '#' => spec.alternate = true,
                c => spec.sign = Some(c),
            }
        }
        spec.width = digits(&mut chars)?.unwrap_or(0);
        if chars.next_if_eq(&'.').is_some() {
            spec.precision = Some(digits(&mut chars)?.unwrap_or(0));
        }
        let kind = chars.next().ok_or_else(|| Fail::new("incomplete format"))?;
        if kind == '%' {
            out.push('%');
            continue;
        }
        used_name |= named.is_some();
        let value = match named {
            Some(value) => value,
            None => next.next().cloned().ok_or_else(|| Fail::new("not enough arguments for format string"))?,
        };
        let value = match kind {
            's' => Value::Text(value.print(run.budget)?),
            'r' => Value::text(value.repr(run.budget)?),
            'd' | 'i' | 'u' => match &value {
                Value::Float(x) => Value::Int(*x as i64),
                v if v.int().is_some() => v.clone(),
                v => return Err(Fail::new(format!("%d format: a real number is required, not {}", v.kind()))),
            },
            _ => value,
        };
        spec.kind = Some(match kind {
            'r' | 's' => 's',
            'i' | 'u' => 'd',
            other => other,
        });
        // `%` puts texts at the right end too.
        spec.align = spec.align.or(Some('>')).filter(|_| !spec.zero || spec.align.is_some());
        out.push_str(&written(run, &value, &spec)?);
    }
    if !used_name && next.next().is_some() {
        return Err(Fail::new("not all arguments converted during string formatting"));
    }
    Ok(Value::text(out))
}

fn digits(chars: &mut std::iter::Peekable<std::str::Chars>) -> Run<Option<usize>> {
    let mut n = None;
    while let Some(d) = chars.peek().and_then(|c| c.to_digit(10)) {
        chars.next();
        n = Some(n.unwrap_or(0usize) * 10 + d as usize);
        if n > Some(MAX_WIDTH) {
            return Err(Fail::new(format!("a field is wider than {MAX_WIDTH}")));
        }
    }
    Ok(n)
}

/// `pattern.format(…)`
pub fn braces(run: &mut Interpreter, pattern: &str, given: &Given) -> Run<Value> {
    let (mut out, mut auto) = (String::new(), 0);
    let mut rest = pattern;
    while let Some(at) = rest.find(['{', '}']) {
        run.budget.make(at + 1)?;
        out.push_str(&rest[..at]);
        let open = rest[at..].starts_with('{');
        rest = &rest[at + 1..];
        if rest.starts_with(if open { '{' } else { '}' }) {
            out.push(if open { '{' } else { '}' });
            rest = &rest[1..];
            continue;
        }
        if !open {
            return Err(Fail::new("Single '}' encountered in format string"));
        }
        let end = field_end(rest).ok_or_else(|| Fail::new("expected '}' before end of string"))?;
        let (field, behind) = (&rest[..end], &rest[end + 1..]);
        rest = behind;
        let (name, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = name.split_once('!').unwrap_or((name, ""));
        let mut value = operand(run, name, given, &mut auto)?;
        match conversion {
            "r" => value = Value::text(value.repr(run.budget)?),
            "s" => value = Value::Text(value.print(run.budget)?),
            _ => {}
        }
        // A width or precision may itself be a field.
        let inner;
        let spec = match spec.contains('{') {
            true => {
                let _level = run.budget.enter()?;
                inner = nested(run, spec, given, &mut auto)?;
                &inner
            }
            false => spec,
        };
        out.push_str(&written(run, &value, &parsed(spec)?)?);
    }
    run.budget.make(rest.len())?;
    out.push_str(rest);
    Ok(Value::text(out))
}

/// Where a field ends: it may hold one more.
fn field_end(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(i),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

fn nested(run: &mut Interpreter, spec: &str, given: &Given, auto: &mut usize) -> Run<String> {
    let mut out = String::new();
    let mut rest = spec;
    while let Some((before, behind)) = rest.split_once('{') {
        let (name, after) = behind.split_once('}').ok_or_else(|| Fail::new("expected '}' before end of string"))?;
        out.push_str(before);
        out.push_str(&operand(run, name, given, auto)?.print(run.budget)?);
        rest = after;
    }
    Ok(out + rest)
}

/// `0.name[key]`
fn operand(run: &mut Interpreter, name: &str, given: &Given, auto: &mut usize) -> Run<Value> {
    let at = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(at);
    let mut value = match first.parse::<usize>() {
        _ if first.is_empty() => {
            *auto += 1;
            given.list.get(*auto - 1).cloned()
        }
        Ok(i) => given.list.get(i).cloned(),
        Err(_) => given.named.iter().find(|n| &*n.0 == first).map(|n| n.1.clone()),
    }
    .ok_or_else(|| Fail::new(format!("format lacks an operand for {{{first}}}")))?;
    while !rest.is_empty() {
        if let Some(behind) = rest.strip_prefix('.') {
            let at = behind.find(['.', '[']).unwrap_or(behind.len());
            value = run.attr(&value, &behind[..at])?;
            rest = &behind[at..];
        } else {
            let (key, behind) = rest[1..].split_once(']').ok_or_else(|| Fail::new("Missing ']' in format string"))?;
            let key = key.parse::<i64>().map_or_else(|_| Value::text(key), Value::Int);
            value = run.item(&value, &key)?;
            rest = behind;
        }
    }
    value.defined()?;
    Ok(value)
}

fn parsed(text: &str) -> Run<Spec> {
    let mut spec = Spec::default();
    let mut chars = text.chars().peekable();
    let second = text.chars().nth(1).filter(|c| "<>^=".contains(*c));
    if second.is_some() {
        (spec.fill, spec.align) = (chars.next(), chars.next());
    } else {
        spec.align = chars.next_if(|c| "<>^=".contains(*c));
    }
    spec.sign = chars.next_if(|c| "+- ".contains(*c));
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zero = chars.next_if_eq(&'0').is_some();
    spec.width = digits(&mut chars)?.unwrap_or(0);
    spec.comma = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = digits(&mut chars)?;
    }
    spec.kind = chars.next();
    match chars.next() {
        None => Ok(spec),
        Some(_) => Err(Fail::new(format!("Invalid format specifier '{text}'"))),
    }
}

fn written(run: &mut Interpreter, value: &Value, spec: &Spec) -> Run<String> {
    let precision = spec.precision.unwrap_or(6);
    run.budget.make(spec.width + precision + 8)?;
    let unknown =
        |kind: char| Err(Fail::new(format!("Unknown format code '{kind}' for object of type '{}'", value.kind())));
    let (negative, digits) = match (spec.kind, value) {
        (None | Some('s'), Value::Text(t)) => return text(run, t, spec),
        (None | Some('s'), v) if !matches!(v, Value::Int(_) | Value::Float(_)) || spec.kind == Some('s') => {
            let t = v.print(run.budget)?;
            return text(run, &t, spec);
        }
        (None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b' | 'c'), v) if v.int().is_some() => {
            let n = v.int().unwrap_or(0);
            let size = n.unsigned_abs();
            let shown = match spec.kind {
                Some('x') => format!("{}{size:x}", if spec.alternate { "0x" } else { "" }),
                Some('X') => format!("{}{size:X}", if spec.alternate { "0X" } else { "" }),
                Some('o') => format!("{}{size:o}", if spec.alternate { "0o" } else { "" }),
                Some('b') => format!("{}{size:b}", if spec.alternate { "0b" } else { "" }),
                Some('c') => return Ok(char::from_u32(size as u32).unwrap_or('\u{fffd}').to_string()),
                _ => size.to_string(),
            };
            (n < 0, shown)
        }
        (kind, v) => {
            let Some(x) = v.number() else { return unknown(kind.unwrap_or('s')) };
            let size = x.abs();
            let shown = match kind {
                Some('f' | 'F') => format!("{size:.precision$}"),
                Some('%') => format!("{:.precision$}%", size * 100.0),
                Some('e' | 'E') => exponent(size, precision, kind == Some('E')),
                None if spec.precision.is_none() => float(size),
                Some('g' | 'G') | None => general(size, precision.max(1)),
                Some(kind) => return unknown(kind),
            };
            (x.is_sign_negative() && !x.is_nan(), shown)
        }
    };
    let digits = match spec.comma {
        Some(comma) => grouped(&digits, comma),
        None => digits,
    };
    let sign = match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    };
    let align = spec.align.unwrap_or(if spec.zero { '=' } else { '>' });
    let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
    let more = spec.width.saturating_sub(sign.len() + digits.chars().count());
    let pad = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(match align {
        '<' => format!("{sign}{digits}{}", pad(more)),
        '^' => format!("{}{sign}{digits}{}", pad(more / 2), pad(more - more / 2)),
        '=' => format!("{sign}{}{digits}", pad(more)),
        _ => format!("{}{sign}{digits}", pad(more)),
    })
}

fn text(run: &mut Interpreter, t: &str, spec: &Spec) -> Run<String> {
    run.budget.make(t.len())?;
    let cut: String = match spec.precision {
        Some(n) => t.chars().take(n).collect(),
        None => t.into(),
    };
    let more = spec.width.saturating_sub(cut.chars().count());
    let pad = |n: usize| std::iter::repeat_n(spec.fill.unwrap_or(' '), n).collect::<String>();
    Ok(match spec.align {
        Some('>') => format!("{}{cut}", pad(more)),
        Some('^') => format!("{}{cut}{}", pad(more / 2), pad(more - more / 2)),
        _ => format!("{cut}{}", pad(more)),
    })
}

/// Thousands apart, in what stands before the point.
fn grouped(digits: &str, comma: char) -> String {
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i) % 3 == 0 {
            out.push(comma);
        }
        out.push(c);
    }
    out + rest
}

fn exponent(x: f64, precision: usize, upper: bool) -> String {
    let text = format!("{x:.precision$e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    format!("{digits}{}{}{:02}", if upper { 'E' } else { 'e' }, if power < 0 { '-' } else { '+' }, power.abs())
}

fn general(x: f64, precision: usize) -> String {
    let shown = exponent(x, precision - 1, false);
    let (digits, power) = shown.split_once('e').unwrap_or((&shown, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let trimmed = |t: &str| {
        if t.contains('.') { t.trim_end_matches('0').trim_end_matches('.').to_string() } else { t.to_string() }
    };
    match power {
        -4.. if power < precision as i32 => {
            trimmed(&format!("{x:.0$}", (precision as i32 - 1 - power).max(0) as usize))
        }
        _ => format!("{}e{}{:02}", trimmed(digits), if power < 0 { '-' } else { '+' }, power.abs()),
    }
}
