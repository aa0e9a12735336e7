//! Runs a template's tree. Every step, every byte that is made and every level of nesting is charged to one budget.

use super::state::{Flow, Given, Interpreter, Scope};
use super::tree::*;
use super::value::{Bound, List, LoopState, Value};
use super::{Fail, Run, conditions, filters, math, methods};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

impl<'t> Interpreter<'t> {
    pub fn run(&mut self, body: &[Stmt], out: &mut String) -> Run<Flow> {
        let _level = self.budget.enter()?;
        for statement in body {
            self.budget.work(1)?;
            self.line = statement.line;
            let flow = self.statement(&statement.node, out)?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn write(&self, text: &str, out: &mut String) -> Run<()> {
        self.budget.make(text.len())?;
        out.push_str(text);
        Ok(())
    }

    fn statement(&mut self, node: &Node, out: &mut String) -> Run<Flow> {
        match node {
            Node::Text(text) => self.write(text, out)?,
            Node::Print(value) => {
                let value = self.eval(value)?;
                let text = value.print(self.budget)?;
                self.write(&text, out)?;
            }
            Node::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition)?.is_true() {
                        return self.run(body, out);
                    }
                }
                return self.run(otherwise, out);
            }
            Node::For(code) => {
                let over = self.eval(&code.over)?;
                return self.looped(code, over, 1, out);
            }
            Node::Set(target, value) => {
                let value = self.eval(value)?;
                self.assign(target, value)?;
            }
            Node::SetBlock(target, filters, body) => {
                let (text, _) = self.scoped(vec![], body)?;
                let text = self.filtered(Value::text(text), filters)?;
                self.assign(target, text)?;
            }
            Node::Macro(code) => {
                let bound = Bound { code: code.clone(), scopes: self.scopes.len(), is_caller: false };
                self.set(code.name.clone(), Value::Macro(Rc::new(bound)));
            }
            Node::Call(call, code) => {
                let bound = Bound { code: code.clone(), scopes: self.scopes.len(), is_caller: true };
                let text = self.call_with(call, Some(Value::Macro(Rc::new(bound))))?.print(self.budget)?;
                self.write(&text, out)?;
            }
            Node::Filter(filters, body) => {
                let (text, _) = self.scoped(vec![], body)?;
                let text = self.filtered(Value::text(text), filters)?.print(self.budget)?;
                self.write(&text, out)?;
            }
            Node::With(values, body) => {
                self.scopes.push(vec![]);
                let done = values.iter().try_for_each(|(target, value)| {
                    let value = self.eval(value)?;
                    self.assign(target, value)
                });
                let done = done.and_then(|_| self.run(body, out));
                self.scopes.pop();
                return done;
            }
            Node::Body(body) => {
                self.scopes.push(vec![]);
                let done = self.run(body, out);
                self.scopes.pop();
                return done;
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    /// The text of a body in a scope of its own.
    fn scoped(&mut self, scope: Scope, body: &[Stmt]) -> Run<(String, Flow)> {
        let mut text = String::new();
        self.scopes.push(scope);
        let done = self.run(body, &mut text);
        self.scopes.pop();
        Ok((text, done?))
    }

    fn filtered(&mut self, mut value: Value, filters: &[FilterCall]) -> Run<Value> {
        for filter in filters {
            let given = self.given(&filter.args)?;
            value = filters::apply(self, &filter.name, value, given)?;
        }
        Ok(value)
    }

    fn looped(&mut self, code: &Rc<For>, over: Value, depth: usize, out: &mut String) -> Run<Flow> {
        let _level = self.budget.enter()?;
        let mut items = over.items(self.budget)?;
        if let Some(only) = &code.only {
            let mut kept = vec![];
            for item in items {
                self.budget.work(1)?;
                self.scopes.push(vec![]);
                let holds = self.assign(&code.target, item.clone()).and_then(|_| self.eval(only));
                self.scopes.pop();
                if holds?.is_true() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        let state = Rc::new(LoopState {
            items: List::new(items, self.budget)?,
            index: Cell::new(0),
            depth,
            changed: RefCell::new(None),
            code: code.recursive.then(|| code.clone()),
        });
        let name: Rc<str> = "loop".into();
        for (i, item) in state.items.items.iter().enumerate() {
            self.budget.work(1)?;
            state.index.set(i);
            self.scopes.push(vec![(name.clone(), Value::Loop(state.clone()))]);
            let done = self.assign(&code.target, item.clone()).and_then(|_| self.run(&code.body, out));
            self.scopes.pop();
            if done? == Flow::Break {
                break;
            }
        }
        if state.items.items.is_empty() {
            return self.run(&code.otherwise, out);
        }
        Ok(Flow::On)
    }

    fn assign(&mut self, target: &Target, value: Value) -> Run<()> {
        match target {
            Target::Name(name) => self.set(name.clone(), value),
            Target::Attr(name, attr) => match self.look(name) {
                Value::Namespace(n) => {
                    if value.has_namespace() {
                        return Err(Fail::new("a namespace holds a namespace, which templates may not here"));
                    }
                    self.budget.make(64)?;
                    let mut all = n.borrow_mut();
                    match all.iter_mut().find(|(k, _)| k == attr) {
                        Some(slot) => slot.1 = value,
                        None => all.push((attr.clone(), value)),
                    }
                }
                other => {
                    return Err(Fail::new(format!(
                        "cannot assign attribute on non-namespace object ('{}')",
                        other.kind()
                    )));
                }
            },
            Target::Tuple(targets) => {
                let items = value.items(self.budget)?;
                if items.len() != targets.len() {
                    let (want, have) = (targets.len(), items.len());
                    return Err(Fail::new(format!("{have} values for {want} names")));
                }
                for (target, item) in targets.iter().zip(items) {
                    self.assign(target, item)?;
                }
            }
        }
        Ok(())
    }

    fn set(&mut self, name: Rc<str>, value: Value) {
        if let Some(scope) = self.scopes.last_mut() {
            match scope.iter_mut().find(|(k, _)| *k == name) {
                Some(slot) => slot.1 = value,
                None => scope.push((name, value)),
            }
        }
    }

    fn look(&self, name: &str) -> Value {
        let found = self.scopes.iter().rev().find_map(|s| s.iter().find(|(k, _)| &**k == name));
        found.map_or_else(|| Value::undefined(format!("'{name}' is undefined")), |f| f.1.clone())
    }

    pub fn eval(&mut self, e: &Expr) -> Run<Value> {
        let _level = self.budget.enter()?;
        self.budget.work(1)?;
        match e {
            Expr::Const(literal) => Ok(Value::from(literal)),
            Expr::Name(name) => {
                self.budget.work(self.scopes.len() as u64)?;
                Ok(self.look(name))
            }
            Expr::List(items) => {
                let items = self.all(items)?;
                Value::list(items, self.budget)
            }
            Expr::Tuple(items) => {
                let items = self.all(items)?;
                Value::tuple(items, self.budget)
            }
            Expr::Dict(pairs) => self.dict(pairs),
            Expr::Unary(sign, of) => {
                let of = self.eval(of)?;
                math::signed(*sign, &of)
            }
            Expr::Math(op, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                math::apply(self, *op, &a, &b)
            }
            Expr::Concat(items) => self.concat(items),
            Expr::Compare(first, rest) => self.compare(first, rest),
            Expr::And(all) => self.chain(all, false),
            Expr::Or(all) => self.chain(all, true),
            Expr::Cond(parts) => {
                if self.eval(&parts.1)?.is_true() {
                    return self.eval(&parts.0);
                }
                match &parts.2 {
                    Some(otherwise) => self.eval(otherwise),
                    None => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined",
                    )),
                }
            }
            Expr::Filter(of, call) => {
                let of = self.eval(of)?;
                let given = self.given(&call.args)?;
                filters::apply(self, &call.name, of, given)
            }
            Expr::Test(of, call, negated) => {
                let of = self.eval(of)?;
                let given = self.given(&call.args)?;
                Ok(Value::Bool(conditions::holds(self, &call.name, &of, &given)? != *negated))
            }
            Expr::Attr(of, name) => {
                let of = self.eval(of)?;
                self.attr(&of, name)
            }
            Expr::Item(of, index) => {
                let (of, index) = (self.eval(of)?, self.eval(index)?);
                self.item(&of, &index)
            }
            Expr::Slice(of, parts) => self.slice(of, parts),
            Expr::Call(..) => self.call_with(e, None),
        }
    }

    fn all(&mut self, items: &[Expr]) -> Run<Vec<Value>> {
        items.iter().map(|i| self.eval(i)).collect()
    }

    fn dict(&mut self, pairs: &[(Expr, Expr)]) -> Run<Value> {
        let mut out = Vec::with_capacity(pairs.len());
        for (k, v) in pairs {
            out.push((self.eval(k)?, self.eval(v)?));
        }
        Value::dict(out, self.budget)
    }

    fn concat(&mut self, items: &[Expr]) -> Run<Value> {
        let mut out = String::new();
        for item in items {
            let text = self.eval(item)?.print(self.budget)?;
            self.write(&text, &mut out)?;
        }
        Ok(Value::text(out))
    }

    fn chain(&mut self, all: &[Expr], until: bool) -> Run<Value> {
        let mut last = Value::None;
        for e in all {
            last = self.eval(e)?;
            if last.is_true() == until {
                break;
            }
        }
        Ok(last)
    }

    fn compare(&mut self, first: &Expr, rest: &[(Comparison, Expr)]) -> Run<Value> {
        let mut left = self.eval(first)?;
        for (op, right) in rest {
            let right = self.eval(right)?;
            if !math::compare(self, *op, &left, &right)? {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn slice(&mut self, of: &Expr, parts: &[Option<Expr>; 3]) -> Run<Value> {
        let of = self.eval(of)?;
        let mut at: [Option<i64>; 3] = [None; 3];
        for (slot, part) in at.iter_mut().zip(parts) {
            let Some(part) = part else { continue };
            *slot = match self.eval(part)? {
                Value::None => None,
                v => Some(v.int().ok_or_else(|| Fail::new("slice indices must be integers or None"))?),
            };
        }
        match &of {
            Value::Text(t) => {
                self.budget.make(t.len() * 5)?;
                let chars: Vec<char> = t.chars().collect();
                let picked: String = math::slice(chars.len(), at)?.into_iter().map(|i| chars[i]).collect();
                Ok(Value::text(picked))
            }
            Value::List(l) => {
                self.budget.make(l.items.len() * 8)?;
                let picked = math::slice(l.items.len(), at)?.into_iter().map(|i| l.items[i].clone()).collect();
                Value::list(picked, self.budget)
            }
            Value::Tuple(l) => {
                self.budget.make(l.items.len() * 8)?;
                let picked = math::slice(l.items.len(), at)?.into_iter().map(|i| l.items[i].clone()).collect();
                Value::tuple(picked, self.budget)
            }
            other => {
                other.defined()?;
                Err(Fail::new(format!("'{}' object is not subscriptable", other.kind())))
            }
        }
    }

    /// `of.name`: a method, or what is there by this name.
    pub fn attr(&self, of: &Value, name: &str) -> Run<Value> {
        self.budget.work(1)?;
        if let Value::Undefined(_) = of {
            of.defined()?;
        }
        if methods::has(of, name) {
            return Ok(Value::Method(Rc::new((of.clone(), name.into()))));
        }
        let found = match of {
            Value::Dict(d) => d.find(&Value::text(name), self.budget)?.cloned(),
            Value::Namespace(n) => n.borrow().iter().find(|(k, _)| &**k == name).map(|p| p.1.clone()),
            Value::Loop(l) => methods::of_loop(l, name),
            // What `groupby` gives.
            Value::Tuple(l) if l.items.len() == 2 && name == "grouper" => Some(l.items[0].clone()),
            Value::Tuple(l) if l.items.len() == 2 && name == "list" => Some(l.items[1].clone()),
            Value::Macro(m) if name == "name" => Some(Value::text(m.code.name.clone())),
            _ => None,
        };
        let what = || match of {
            Value::Dict(_) => format!("'dict object' has no attribute '{name}'"),
            other => format!("'{} object' has no attribute '{name}'", other.kind()),
        };
        Ok(found.unwrap_or_else(|| Value::undefined(what())))
    }

    /// `of[index]`
    pub fn item(&self, of: &Value, index: &Value) -> Run<Value> {
        of.defined()?;
        let found = match (of, index) {
            (Value::Dict(d), key) => d.find(key, self.budget)?.cloned(),
            (Value::List(l) | Value::Tuple(l), i) => {
                i.int().and_then(|i| math::index(l.items.len(), i)).map(|i| l.items[i].clone())
            }
            (Value::Text(t), i) => {
                self.budget.work(t.len() as u64 / 16)?;
                let at = i.int().and_then(|i| math::index(t.chars().count(), i));
                at.and_then(|i| t.chars().nth(i)).map(|c| Value::text(c.to_string()))
            }
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match index {
            Value::Text(name) if !matches!(of, Value::Dict(d) if d.pairs.is_empty()) || methods::has(of, name) => {
                self.attr(of, name)
            }
            Value::Text(name) => Ok(Value::undefined(format!("'dict object' has no attribute '{name}'"))),
            other => Ok(Value::undefined(format!("{} object has no element {}", of.kind(), other.repr(self.budget)?))),
        }
    }

    fn given(&mut self, args: &Args) -> Run<Given> {
        let mut out = Given { list: self.all(&args.list)?, named: vec![] };
        for (name, value) in &args.named {
            let value = self.eval(value)?;
            out.named.push((name.clone(), value));
        }
        if let Some(more) = &args.more {
            let more = self.eval(more)?;
            out.list.extend(more.items(self.budget)?);
        }
        if let Some(more) = &args.more_named {
            match self.eval(more)? {
                Value::Dict(d) => {
                    self.budget.make(d.pairs.len() * 32)?;
                    out.named.extend(d.pairs.iter().filter_map(|(k, v)| Some((k.as_text()?.into(), v.clone()))));
                }
                other => return Err(Fail::new(format!("argument after ** must be a mapping, not {}", other.kind()))),
            }
        }
        Ok(out)
    }

    /// A call, with what its `caller()` is.
    fn call_with(&mut self, e: &Expr, caller: Option<Value>) -> Run<Value> {
        let Expr::Call(of, args) = e else { return Err(Fail::new("calls what is no call")) };
        let of = self.eval(of)?;
        let mut given = self.given(args)?;
        given.named.extend(caller.map(|c| (Rc::from("caller"), c)));
        self.call(&of, given)
    }

    pub fn call(&mut self, of: &Value, given: Given) -> Run<Value> {
        let _level = self.budget.enter()?;
        match of {
            Value::Macro(bound) => self.call_macro(bound, given),
            Value::Method(m) => methods::call(self, &m.0, &m.1, &given),
            Value::Function(name) => super::functions::call(self, name, given),
            Value::Loop(state) => {
                let code = state
                    .code
                    .as_ref()
                    .ok_or_else(|| Fail::new("the loop must have the 'recursive' marker to be called recursively"))?;
                let over = given.list.into_iter().next().unwrap_or(Value::None);
                let mut text = String::new();
                self.looped(code, over, state.depth + 1, &mut text)?;
                Ok(Value::text(text))
            }
            other => {
                other.defined()?;
                Err(Fail::new(format!("'{}' object is not callable", other.kind())))
            }
        }
    }

    fn call_macro(&mut self, bound: &Bound, mut given: Given) -> Run<Value> {
        let code = bound.code.clone();
        let mut scope: Scope = vec![];
        let mut list = given.list.into_iter();
        let hidden = self.scopes.split_off(bound.scopes.min(self.scopes.len()));
        let mut bind = || -> Run<()> {
            for (name, default) in &code.parameters {
                let named = given.named.iter().position(|n| n.0 == *name);
                let value = match (list.next(), named, default) {
                    (Some(value), _, _) => value,
                    (None, Some(i), _) => given.named.remove(i).1,
                    (None, None, Some(default)) => {
                        // Later parameters may be made of earlier ones.
                        self.scopes.push(std::mem::take(&mut scope));
                        let value = self.eval(default);
                        scope = self.scopes.pop().unwrap_or_default();
                        value?
                    }
                    (None, None, None) => Value::undefined(format!("parameter '{name}' was not provided")),
                };
                scope.push((name.clone(), value));
            }
            if let Some(i) = given.named.iter().position(|n| &*n.0 == "caller") {
                let caller = given.named.remove(i);
                if !bound.is_caller {
                    scope.push(caller);
                }
            }
            let named = given.named.drain(..).map(|(k, v)| (Value::text(k), v)).collect();
            scope.push(("kwargs".into(), Value::dict(named, self.budget)?));
            scope.push(("varargs".into(), Value::tuple(list.by_ref().collect(), self.budget)?));
            Ok(())
        };
        let done = bind().and_then(|_| self.scoped(scope, &code.body));
        self.scopes.extend(hidden);
        Ok(Value::text(done?.0))
    }
}
