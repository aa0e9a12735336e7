//! Tokens into a tree, by Jinja's grammar and precedences. How deep anything may nest is bounded here, so nothing that walks
//! the tree later can run out of stack.

use super::lex::{Lexed, Token};
use super::tree::*;
use super::{Fail, Run};
use std::rc::Rc;

/// The deepest that expressions and blocks nest; operators of one chain count as levels.
const MAX_DEPTH: usize = 160;

pub fn parse(tokens: Vec<Lexed>) -> Run<Vec<Stmt>> {
    let mut p = Parser { tokens, at: 0, depth: 0 };
    let body = p.body(&[])?;
    match p.at < p.tokens.len() {
        true => p.fail("ends a block that it did not begin"),
        false => Ok(body),
    }
}

struct Parser {
    tokens: Vec<Lexed>,
    at: usize,
    depth: usize,
}

impl Parser {
    fn fail<T>(&self, what: impl Into<String>) -> Run<T> {
        let last = self.tokens.last().map_or(1, |t| t.1);
        Err(Fail::at(self.tokens.get(self.at).map_or(last, |t| t.1), what))
    }
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|t| &t.0)
    }
    fn line(&self) -> u32 {
        self.tokens.get(self.at).map_or(1, |t| t.1)
    }
    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Some(Token::Op(o)) if *o == op)
    }
    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Name(n)) if n == name)
    }
    fn skip_op(&mut self, op: &str) -> bool {
        let is = self.is_op(op);
        self.at += is as usize;
        is
    }
    fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        self.at += is as usize;
        is
    }
    fn want_op(&mut self, op: &str) -> Run<()> {
        match self.skip_op(op) {
            true => Ok(()),
            false => self.fail(format!("lacks \"{op}\" before {}", self.shown())),
        }
    }
    fn want_name(&mut self) -> Run<Rc<str>> {
        match self.peek() {
            Some(Token::Name(n)) => {
                let name = Rc::from(n.as_str());
                self.at += 1;
                Ok(name)
            }
            _ => self.fail(format!("lacks a name before {}", self.shown())),
        }
    }
    fn want_block_end(&mut self) -> Run<()> {
        match self.peek() {
            Some(Token::BlockEnd) => {
                self.at += 1;
                Ok(())
            }
            _ => self.fail(format!("has an unexpected {}", self.shown())),
        }
    }
    fn shown(&self) -> String {
        match self.peek() {
            None => "the end".into(),
            Some(Token::Name(n)) => format!("\"{n}\""),
            Some(Token::Op(o)) => format!("\"{o}\""),
            Some(Token::BlockEnd | Token::PrintEnd) => "the tag's end".into(),
            Some(Token::Str(s)) => format!("{s:?}"),
            Some(Token::Int(n)) => n.to_string(),
            Some(Token::Float(x)) => x.to_string(),
            Some(Token::Text(_) | Token::Block | Token::Print) => "text".into(),
        }
    }
    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Run<T>) -> Run<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("nests deeper than {MAX_DEPTH} levels"));
        }
        let done = f(self);
        self.depth -= 1;
        done
    }
    /// Links of one chain (`a|b|c`, `a + b + c`): each is a level of the tree.
    fn link(&self, links: &mut usize) -> Run<()> {
        *links += 1;
        match self.depth + *links > MAX_DEPTH {
            true => self.fail(format!("nests deeper than {MAX_DEPTH} levels")),
            false => Ok(()),
        }
    }

    /// Statements up to a block tag of one of these names, which is left to read, or to the end.
    fn body(&mut self, ends: &[&str]) -> Run<Vec<Stmt>> {
        self.deeper(|p| {
            let mut out = vec![];
            while let Some(token) = p.peek() {
                let line = p.line();
                match token {
                    Token::Text(text) => {
                        out.push(Stmt { line, node: Node::Text(text.as_str().into()) });
                        p.at += 1;
                    }
                    Token::Print => {
                        p.at += 1;
                        let value = p.tuple(true, &[])?;
                        match p.peek() {
                            Some(Token::PrintEnd) => p.at += 1,
                            _ => return p.fail(format!("has an unexpected {}", p.shown())),
                        }
                        out.push(Stmt { line, node: Node::Print(value) });
                    }
                    Token::Block => {
                        if let Some((Token::Name(name), _)) = p.tokens.get(p.at + 1)
                            && ends.contains(&name.as_str())
                        {
                            p.at += 1;
                            return Ok(out);
                        }
                        p.at += 1;
                        let node = p.statement()?;
                        out.push(Stmt { line, node });
                    }
                    _ => return p.fail(format!("has an unexpected {}", p.shown())),
                }
            }
            match ends {
                [] => Ok(out),
                _ => p.fail(format!("lacks {}", ends[ends.len() - 1])),
            }
        })
    }

    /// The body of a block up to its end tag, which is read too.
    fn block(&mut self, end: &str) -> Run<Vec<Stmt>> {
        self.want_block_end()?;
        let body = self.body(&[end])?;
        self.at += 1;
        // Some ends name what they end.
        if let Some(Token::Name(_)) = self.peek() {
            self.at += 1;
        }
        self.want_block_end()?;
        Ok(body)
    }

    fn statement(&mut self) -> Run<Node> {
        let name = self.want_name()?;
        Ok(match &*name {
            "if" => self.branches()?,
            "for" => self.loops()?,
            "set" => self.set()?,
            "macro" => {
                let name = self.want_name()?;
                let parameters = self.parameters()?;
                Node::Macro(Rc::new(Macro { name, parameters, body: self.block("endmacro")? }))
            }
            "call" => {
                let parameters = if self.is_op("(") { self.parameters()? } else { vec![] };
                let call = self.expression()?;
                if !matches!(call, Expr::Call(..)) {
                    return self.fail("calls what is no call");
                }
                Node::Call(call, Rc::new(Macro { name: "caller".into(), parameters, body: self.block("endcall")? }))
            }
            "filter" => Node::Filter(self.filters()?, self.block("endfilter")?),
            "with" => {
                let mut values = vec![];
                while !matches!(self.peek(), Some(Token::BlockEnd)) {
                    if !values.is_empty() {
                        self.want_op(",")?;
                    }
                    let target = self.target(false)?;
                    self.want_op("=")?;
                    values.push((target, self.expression()?));
                }
                Node::With(values, self.block("endwith")?)
            }
            "generation" => Node::Body(self.block("endgeneration")?),
            "block" => {
                self.want_name()?;
                while self.skip_name("scoped") || self.skip_name("required") {}
                Node::Body(self.block("endblock")?)
            }
            "autoescape" => {
                self.expression()?;
                Node::Body(self.block("endautoescape")?)
            }
            "break" => {
                self.want_block_end()?;
                Node::Break
            }
            "continue" => {
                self.want_block_end()?;
                Node::Continue
            }
            other => return self.fail(format!("has the unknown tag \"{other}\"")),
        })
    }

    fn branches(&mut self) -> Run<Node> {
        let mut branches = vec![];
        loop {
            let condition = self.tuple(false, &[])?;
            self.want_block_end()?;
            branches.push((condition, self.body(&["elif", "else", "endif"])?));
            if self.skip_name("elif") {
                continue;
            }
            let mut otherwise = vec![];
            if self.skip_name("else") {
                self.want_block_end()?;
                otherwise = self.body(&["endif"])?;
            }
            self.at += 1;
            self.want_block_end()?;
            return Ok(Node::If(branches, otherwise));
        }
    }

    fn loops(&mut self) -> Run<Node> {
        let target = self.target(false)?;
        if !self.skip_name("in") {
            return self.fail("lacks \"in\" in a loop");
        }
        let over = self.tuple(false, &["recursive"])?;
        let only = if self.skip_name("if") { Some(self.expression()?) } else { None };
        let recursive = self.skip_name("recursive");
        self.want_block_end()?;
        let body = self.body(&["else", "endfor"])?;
        let mut otherwise = vec![];
        if self.skip_name("else") {
            self.want_block_end()?;
            otherwise = self.body(&["endfor"])?;
        }
        self.at += 1;
        self.want_block_end()?;
        Ok(Node::For(Rc::new(For { target, over, only, body, otherwise, recursive })))
    }

    fn set(&mut self) -> Run<Node> {
        let target = self.target(true)?;
        if self.skip_op("=") {
            let value = self.tuple(true, &[])?;
            self.want_block_end()?;
            return Ok(Node::Set(target, value));
        }
        let filters = if self.skip_op("|") { self.filters()? } else { vec![] };
        Ok(Node::SetBlock(target, filters, self.block("endset")?))
    }

    /// A name, an attribute of a namespace, or several names.
    fn target(&mut self, with_namespace: bool) -> Run<Target> {
        let mut all = vec![];
        let mut is_tuple = false;
        loop {
            if self.skip_op("(") {
                all.push(self.deeper(|p| p.target(false))?);
                self.want_op(")")?;
            } else {
                let name = self.want_name()?;
                match with_namespace && self.skip_op(".") {
                    true => all.push(Target::Attr(name, self.want_name()?)),
                    false => all.push(Target::Name(name)),
                }
            }
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
            if self.is_name("in") || self.is_op("=") || self.is_op(")") {
                break;
            }
        }
        match (is_tuple, all.pop()) {
            (false, Some(one)) => Ok(one),
            (_, last) => {
                all.extend(last);
                Ok(Target::Tuple(all))
            }
        }
    }

    fn parameters(&mut self) -> Run<Vec<(Rc<str>, Option<Expr>)>> {
        self.want_op("(")?;
        let mut out = vec![];
        while !self.skip_op(")") {
            if !out.is_empty() {
                self.want_op(",")?;
            }
            let name = self.want_name()?;
            let default = if self.skip_op("=") { Some(self.expression()?) } else { None };
            out.push((name, default));
        }
        Ok(out)
    }

    fn filters(&mut self) -> Run<Vec<FilterCall>> {
        let mut out = vec![self.filter_call()?];
        while self.skip_op("|") {
            out.push(self.filter_call()?);
        }
        Ok(out)
    }

    fn filter_call(&mut self) -> Run<FilterCall> {
        let name = self.dotted()?;
        let args = if self.skip_op("(") { self.args()? } else { Args::default() };
        Ok(FilterCall { name, args })
    }

    fn dotted(&mut self) -> Run<Rc<str>> {
        let mut name = self.want_name()?.to_string();
        while self.skip_op(".") {
            name = format!("{name}.{}", self.want_name()?);
        }
        Ok(name.into())
    }

    /// Several values with commas between are a tuple.
    fn tuple(&mut self, with_condition: bool, ends: &[&str]) -> Run<Expr> {
        let mut all = vec![];
        let mut is_tuple = false;
        loop {
            let ended = match self.peek() {
                None | Some(Token::PrintEnd | Token::BlockEnd | Token::Op(")")) => true,
                Some(Token::Name(n)) => ends.contains(&n.as_str()),
                _ => false,
            };
            if ended {
                break;
            }
            all.push(if with_condition { self.expression()? } else { self.deeper(Parser::or)? });
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match (is_tuple, all.pop()) {
            (false, Some(one)) => Ok(one),
            (false, None) => self.fail(format!("lacks an expression before {}", self.shown())),
            (true, last) => {
                all.extend(last);
                Ok(Expr::Tuple(all))
            }
        }
    }

    fn expression(&mut self) -> Run<Expr> {
        self.deeper(|p| {
            let mut value = p.or()?;
            let mut links = 0;
            while p.skip_name("if") {
                p.link(&mut links)?;
                let condition = p.or()?;
                let otherwise = if p.skip_name("else") { Some(p.expression()?) } else { None };
                value = Expr::Cond(Box::new((value, condition, otherwise)));
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Run<Expr> {
        let first = self.and()?;
        if !self.is_name("or") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name("or") {
            all.push(self.and()?);
        }
        Ok(Expr::Or(all))
    }

    fn and(&mut self) -> Run<Expr> {
        let first = self.not()?;
        if !self.is_name("and") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_name("and") {
            all.push(self.not()?);
        }
        Ok(Expr::And(all))
    }

    fn not(&mut self) -> Run<Expr> {
        match self.skip_name("not") {
            true => Ok(Expr::Unary(Sign::Not, Box::new(self.deeper(Parser::not)?))),
            false => self.comparison(),
        }
    }

    fn comparison(&mut self) -> Run<Expr> {
        let first = self.sum()?;
        let mut rest = vec![];
        loop {
            let op = match self.peek() {
                Some(Token::Op("==")) => Comparison::Eq,
                Some(Token::Op("!=")) => Comparison::Ne,
                Some(Token::Op("<")) => Comparison::Lt,
                Some(Token::Op("<=")) => Comparison::Le,
                Some(Token::Op(">")) => Comparison::Gt,
                Some(Token::Op(">=")) => Comparison::Ge,
                Some(Token::Name(n)) if n == "in" => Comparison::In,
                Some(Token::Name(n))
                    if n == "not" && matches!(self.tokens.get(self.at + 1), Some((Token::Name(n), _)) if n == "in") =>
                {
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Run<Expr> {
        let mut left = self.concat()?;
        let mut links = 0;
        loop {
            let op = match self.peek() {
                Some(Token::Op("+")) => Math::Add,
                Some(Token::Op("-")) => Math::Sub,
                _ => return Ok(left),
            };
            self.at += 1;
            self.link(&mut links)?;
            left = Expr::Math(op, Box::new(left), Box::new(self.concat()?));
        }
    }

    fn concat(&mut self) -> Run<Expr> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.skip_op("~") {
            all.push(self.product()?);
        }
        Ok(Expr::Concat(all))
    }

    fn product(&mut self) -> Run<Expr> {
        let mut left = self.power()?;
        let mut links = 0;
        loop {
            let op = match self.peek() {
                Some(Token::Op("*")) => Math::Mul,
                Some(Token::Op("/")) => Math::Div,
                Some(Token::Op("//")) => Math::Floor,
                Some(Token::Op("%")) => Math::Rem,
                _ => return Ok(left),
            };
            self.at += 1;
            self.link(&mut links)?;
            left = Expr::Math(op, Box::new(left), Box::new(self.power()?));
        }
    }

    fn power(&mut self) -> Run<Expr> {
        let mut left = self.unary(true)?;
        let mut links = 0;
        while self.skip_op("**") {
            self.link(&mut links)?;
            left = Expr::Math(Math::Pow, Box::new(left), Box::new(self.unary(true)?));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Run<Expr> {
        let sign = match self.peek() {
            Some(Token::Op("-")) => Some(Sign::Minus),
            Some(Token::Op("+")) => Some(Sign::Plus),
            _ => None,
        };
        let value = match sign {
            Some(sign) => {
                self.at += 1;
                Expr::Unary(sign, Box::new(self.deeper(|p| p.unary(false))?))
            }
            None => self.primary()?,
        };
        let mut links = 0;
        let value = self.postfix(value, &mut links)?;
        match with_filter {
            true => self.filtered(value, &mut links),
            false => Ok(value),
        }
    }

    fn primary(&mut self) -> Run<Expr> {
        let token = self.peek().cloned();
        let value = match token {
            Some(Token::Name(n)) => match n.as_str() {
                "true" | "True" => Expr::Const(Literal::Bool(true)),
                "false" | "False" => Expr::Const(Literal::Bool(false)),
                "none" | "None" => Expr::Const(Literal::None),
                name => Expr::Name(name.into()),
            },
            Some(Token::Int(n)) => Expr::Const(Literal::Int(n)),
            Some(Token::Float(x)) => Expr::Const(Literal::Float(x)),
            Some(Token::Str(_)) => {
                // Texts side by side are one.
                let mut text = String::new();
                while let Some(Token::Str(s)) = self.peek() {
                    text.push_str(s);
                    self.at += 1;
                }
                return Ok(Expr::Const(Literal::Text(Rc::from(text))));
            }
            Some(Token::Op("(")) => {
                self.at += 1;
                if self.skip_op(")") {
                    return Ok(Expr::Tuple(vec![]));
                }
                let inside = self.deeper(|p| p.tuple(true, &[]))?;
                self.want_op(")")?;
                return Ok(inside);
            }
            Some(Token::Op("[")) => {
                self.at += 1;
                let mut items = vec![];
                while !self.skip_op("]") {
                    if !items.is_empty() {
                        self.want_op(",")?;
                        if self.skip_op("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                return Ok(Expr::List(items));
            }
            Some(Token::Op("{")) => {
                self.at += 1;
                let mut items = vec![];
                while !self.skip_op("}") {
                    if !items.is_empty() {
                        self.want_op(",")?;
                        if self.skip_op("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.want_op(":")?;
                    items.push((key, self.expression()?));
                }
                return Ok(Expr::Dict(items));
            }
            _ => return self.fail(format!("has an unexpected {}", self.shown())),
        };
        self.at += 1;
        Ok(value)
    }

    fn postfix(&mut self, mut value: Expr, links: &mut usize) -> Run<Expr> {
        loop {
            if self.skip_op(".") {
                value = match self.peek() {
                    Some(Token::Int(n)) => {
                        let index = Expr::Const(Literal::Int(*n));
                        self.at += 1;
                        Expr::Item(Box::new(value), Box::new(index))
                    }
                    _ => Expr::Attr(Box::new(value), self.want_name()?),
                };
            } else if self.skip_op("[") {
                value = self.subscript(value)?;
            } else if self.skip_op("(") {
                value = Expr::Call(Box::new(value), self.args()?);
            } else {
                return Ok(value);
            }
            self.link(links)?;
        }
    }

    fn subscript(&mut self, value: Expr) -> Run<Expr> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.skip_op("]") {
                break;
            }
            if self.skip_op(":") {
                colons += 1;
                if colons > 2 {
                    return self.fail("slices by more than three numbers");
                }
                continue;
            }
            if self.is_op(",") {
                return self.fail("takes several items at once");
            }
            if parts[colons].is_some() {
                return self.fail(format!("has an unexpected {}", self.shown()));
            }
            parts[colons] = Some(self.expression()?);
        }
        if colons > 0 {
            return Ok(Expr::Slice(Box::new(value), Box::new(parts)));
        }
        match parts {
            [Some(index), ..] => Ok(Expr::Item(Box::new(value), Box::new(index))),
            _ => self.fail("takes an item without its name"),
        }
    }

    fn filtered(&mut self, mut value: Expr, links: &mut usize) -> Run<Expr> {
        loop {
            if self.skip_op("|") {
                value = Expr::Filter(Box::new(value), self.filter_call()?);
            } else if self.skip_name("is") {
                value = self.test(value)?;
            } else if self.skip_op("(") {
                value = Expr::Call(Box::new(value), self.args()?);
            } else {
                return Ok(value);
            }
            self.link(links)?;
        }
    }

    fn test(&mut self, value: Expr) -> Run<Expr> {
        let negated = self.skip_name("not");
        let name = self.dotted()?;
        let mut args = Args::default();
        if self.skip_op("(") {
            args = self.args()?;
        } else {
            let begins = match self.peek() {
                Some(Token::Name(n)) if n == "is" => return self.fail("chains tests"),
                Some(Token::Name(n)) => {
                    !matches!(n.as_str(), "else" | "or" | "and" | "if" | "in" | "not" | "recursive")
                }
                Some(Token::Str(_) | Token::Int(_) | Token::Float(_)) => true,
                Some(Token::Op(o)) => matches!(*o, "[" | "{"),
                _ => false,
            };
            if begins {
                let mut links = 0;
                let operand = self.primary()?;
                args.list.push(self.postfix(operand, &mut links)?);
            }
        }
        Ok(Expr::Test(Box::new(value), FilterCall { name, args }, negated))
    }

    /// What stands between the parentheses of a call, and the closing one.
    fn args(&mut self) -> Run<Args> {
        let mut out = Args::default();
        let mut first = true;
        while !self.skip_op(")") {
            if !first {
                self.want_op(",")?;
                if self.skip_op(")") {
                    break;
                }
            }
            first = false;
            if self.skip_op("**") {
                out.more_named = Some(Box::new(self.expression()?));
            } else if self.skip_op("*") {
                out.more = Some(Box::new(self.expression()?));
            } else if let (Some(Token::Name(name)), Some((Token::Op("="), _))) =
                (self.peek().cloned(), self.tokens.get(self.at + 1))
            {
                self.at += 2;
                out.named.push((name.as_str().into(), self.expression()?));
            } else {
                out.list.push(self.expression()?);
            }
        }
        Ok(out)
    }
}
