//! Templates into tokens: text between tags, with Jinja's rules about the white space around them (`trim_blocks` and
//! `lstrip_blocks` on, as model files expect), and the words of expressions.

use super::{Fail, Run};

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Text(String),
    /// `{%`
    Block,
    BlockEnd,
    /// `{{`
    Print,
    PrintEnd,
    Name(String),
    Str(String),
    Int(i64),
    Float(f64),
    Op(&'static str),
}

/// A token with its line.
pub type Lexed = (Token, u32);

const OPS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

pub fn lex(source: &str) -> Run<Vec<Lexed>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    // One newline at the end is the file's, not the template's.
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { rest: source, line: 1, starts_line: true, out: vec![] };
    while !lexer.rest.is_empty() {
        lexer.data()?;
    }
    Ok(lexer.out)
}

struct Lexer<'s> {
    rest: &'s str,
    line: u32,
    /// Whether what was read last ended a line.
    starts_line: bool,
    out: Vec<Lexed>,
}

impl<'s> Lexer<'s> {
    fn fail<T>(&self, what: impl Into<String>) -> Run<T> {
        Err(Fail::at(self.line, what))
    }

    fn take(&mut self, n: usize) -> &'s str {
        let (head, rest) = self.rest.split_at(n);
        self.rest = rest;
        self.line += head.bytes().filter(|b| *b == b'\n').count() as u32;
        if !head.is_empty() {
            self.starts_line = head.ends_with('\n');
        }
        head
    }

    fn push(&mut self, token: Token) {
        self.out.push((token, self.line));
    }

    /// Text up to the next tag, and the tag.
    fn data(&mut self) -> Run<()> {
        let at = self
            .rest
            .match_indices('{')
            .map(|m| m.0)
            .find(|i| ["{{", "{%", "{#"].iter().any(|tag| self.rest[*i..].starts_with(tag)));
        let Some(at) = at else {
            let text = self.take(self.rest.len());
            self.push(Token::Text(text.into()));
            return Ok(());
        };
        let (starts_line, tag) = (self.starts_line, &self.rest[at + 1..at + 2]);
        let sign = self.rest[at + 2..].chars().next().filter(|c| *c == '-' || (*c == '+' && tag != "{"));
        let mut text = &self.rest[..at];
        if sign == Some('-') {
            text = text.trim_end();
        } else if sign.is_none() && tag != "{" {
            let line = text.rfind('\n').map_or(0, |i| i + 1);
            if (line > 0 || starts_line) && text[line..].chars().all(char::is_whitespace) {
                text = &text[..line];
            }
        }
        if !text.is_empty() {
            let text = text.to_string();
            self.push(Token::Text(text));
        }
        self.take(at + 2 + sign.map_or(0, |_| 1));
        match tag {
            "#" => self.comment(),
            "%" if self.raw()? => Ok(()),
            "%" => {
                self.push(Token::Block);
                self.words("%}", Token::BlockEnd)
            }
            _ => {
                self.push(Token::Print);
                self.words("}}", Token::PrintEnd)
            }
        }
    }

    fn comment(&mut self) -> Run<()> {
        let Some(end) = self.rest.find("#}") else { return self.fail("has a comment without an end") };
        let sign = self.rest[..end].chars().next_back();
        self.take(end + 2);
        self.after_block(sign);
        Ok(())
    }

    /// Behind a block or comment a newline is left out, all white space where its end says so, nothing where it says that.
    fn after_block(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => drop(self.take(self.rest.len() - self.rest.trim_start().len())),
            Some('+') => {}
            _ if self.rest.starts_with('\n') => drop(self.take(1)),
            _ => {}
        }
    }

    /// `{% raw %}`, if that is what comes: text up to its end as it is.
    fn raw(&mut self) -> Run<bool> {
        let word = self.rest.trim_start();
        let Some(behind) = word.strip_prefix("raw").map(str::trim_start) else { return Ok(false) };
        let strips = behind.starts_with("-%}");
        let Some(body) = behind.strip_prefix("-%}").or(behind.strip_prefix("%}")) else { return Ok(false) };
        self.take(self.rest.len() - body.len());
        if strips {
            self.take(self.rest.len() - self.rest.trim_start().len());
        }
        let mut from = 0;
        while let Some(at) = self.rest[from..].find("{%").map(|i| i + from) {
            let inside = &self.rest[at + 2..];
            let sign = inside.chars().next().filter(|c| matches!(c, '-' | '+'));
            let word = inside[sign.map_or(0, |_| 1)..].trim_start();
            if let Some(behind) = word.strip_prefix("endraw").map(str::trim_start) {
                let ends = [("-%}", Some('-')), ("+%}", Some('+')), ("%}", None)];
                if let Some((end, end_sign)) = ends.iter().find(|(e, _)| behind.starts_with(e)) {
                    let mut text = &self.rest[..at];
                    if sign == Some('-') {
                        text = text.trim_end();
                    } else if sign.is_none() {
                        let line = text.rfind('\n').map_or(0, |i| i + 1);
                        if line > 0 && text[line..].chars().all(char::is_whitespace) {
                            text = &text[..line];
                        }
                    }
                    let text = text.to_string();
                    self.push(Token::Text(text));
                    let behind = &behind[end.len()..];
                    self.take(self.rest.len() - behind.len());
                    self.after_block(*end_sign);
                    return Ok(true);
                }
            }
            from = at + 2;
        }
        self.fail("has a raw block without an end")
    }

    /// The words of a tag, up to its end.
    fn words(&mut self, end: &str, token: Token) -> Run<()> {
        let mut open: Vec<char> = vec![];
        loop {
            self.take(self.rest.len() - self.rest.trim_start().len());
            if open.is_empty() {
                let signs: &[(&str, Option<char>)] = if end == "%}" {
                    &[("-", Some('-')), ("+", Some('+')), ("", None)]
                } else {
                    &[("-", Some('-')), ("", None)]
                };
                let found = signs.iter().find(|(s, _)| self.rest.strip_prefix(s).is_some_and(|r| r.starts_with(end)));
                if let Some((sign, kind)) = found {
                    self.push(token);
                    self.take(sign.len() + end.len());
                    match (end, kind) {
                        ("%}", kind) => self.after_block(*kind),
                        (_, Some('-')) => drop(self.take(self.rest.len() - self.rest.trim_start().len())),
                        _ => {}
                    }
                    return Ok(());
                }
            }
            let Some(c) = self.rest.chars().next() else {
                return self.fail(format!("has a tag without its end \"{end}\""));
            };
            match c {
                '\'' | '"' => self.string(c)?,
                c if c.is_ascii_digit() => self.number()?,
                c if c.is_alphabetic() || c == '_' => {
                    let n = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
                    let name = self.rest[..n].to_string();
                    self.push(Token::Name(name));
                    self.take(n);
                }
                c => {
                    let Some(op) = OPS.iter().find(|op| self.rest.starts_with(**op)) else {
                        return self.fail(format!("has an unexpected {c:?}"));
                    };
                    match *op {
                        "(" => open.push(')'),
                        "[" => open.push(']'),
                        "{" => open.push('}'),
                        ")" | "]" | "}" if open.pop() != op.chars().next() => {
                            return self.fail(format!("has an unexpected \"{op}\""));
                        }
                        _ => {}
                    }
                    self.push(Token::Op(op));
                    self.take(op.len());
                }
            }
        }
    }

    fn number(&mut self) -> Run<()> {
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| bytes[from..].iter().take_while(|b| b.is_ascii_digit() || **b == b'_').count();
        for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0b", 2)] {
            if let Some(digits) = self.rest.strip_prefix(prefix) {
                let n = digits.find(|c: char| !c.is_digit(radix) && c != '_').unwrap_or(digits.len());
                let value = i64::from_str_radix(&digits[..n].replace('_', ""), radix);
                let Ok(value) = value else { return self.fail("has a number that is too large or none") };
                self.push(Token::Int(value));
                self.take(n + 2);
                return Ok(());
            }
        }
        let mut n = digits(0);
        let mut whole = true;
        if bytes.get(n) == Some(&b'.') && bytes.get(n + 1).is_some_and(u8::is_ascii_digit) {
            n += 1 + digits(n + 1);
            whole = false;
        }
        if matches!(bytes.get(n), Some(b'e' | b'E')) {
            let sign = matches!(bytes.get(n + 1), Some(b'+' | b'-')) as usize;
            let exponent = digits(n + 1 + sign);
            if exponent > 0 {
                n += 1 + sign + exponent;
                whole = false;
            }
        }
        let text = self.rest[..n].replace('_', "");
        let token = match whole {
            true => text.parse().ok().map(Token::Int),
            false => text.parse().ok().map(Token::Float),
        };
        let Some(token) = token else { return self.fail(format!("has the number {text}, which is too large")) };
        self.push(token);
        self.take(n);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Run<()> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        let hex = |chars: &mut std::iter::Peekable<std::iter::Skip<std::str::CharIndices<'s>>>, n: usize| {
            let mut value = 0;
            for _ in 0..n {
                value = value * 16 + chars.next()?.1.to_digit(16)?;
            }
            Some(value)
        };
        loop {
            let Some((at, c)) = chars.next() else { return self.fail("has a text without its closing quote") };
            if c == quote {
                self.push(Token::Str(out));
                self.take(at + 1);
                return Ok(());
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            let Some((_, c)) = chars.next() else { continue };
            let code = match c {
                'x' => Some(hex(&mut chars, 2)),
                'u' => Some(hex(&mut chars, 4)),
                'U' => Some(hex(&mut chars, 8)),
                '0'..='7' => {
                    let mut value = c.to_digit(8).unwrap_or(0);
                    for _ in 0..2 {
                        if let Some(d) = chars.peek().and_then(|c| c.1.to_digit(8)) {
                            value = value * 8 + d;
                            chars.next();
                        }
                    }
                    Some(Some(value))
                }
                _ => None,
            };
            match (code, c) {
                (Some(None), _) => return self.fail("has a text with a broken escape"),
                (Some(Some(code)), _) => out.push(char::from_u32(code).unwrap_or('\u{fffd}')),
                (None, 'n') => out.push('\n'),
                (None, 't') => out.push('\t'),
                (None, 'r') => out.push('\r'),
                (None, 'a') => out.push('\u{7}'),
                (None, 'b') => out.push('\u{8}'),
                (None, 'f') => out.push('\u{c}'),
                (None, 'v') => out.push('\u{b}'),
                (None, '\\' | '\'' | '"') => out.push(c),
                (None, '\n') => {}
                (None, other) => out.extend(['\\', other]),
            }
        }
    }
}
