//! Where a template that runs stands: its scopes, its line, the budget that it is charged to.

use super::value::Value;
use crate::base::Budget;
use std::rc::Rc;

/// Names and values of one scope.
pub(super) type Scope = Vec<(Rc<str>, Value)>;

pub struct Interpreter<'t> {
    pub budget: &'t Budget,
    pub(super) scopes: Vec<Scope>,
    /// The line of the statement that runs.
    pub line: u32,
}

/// Positional and named operands of a call.
#[derive(Default)]
pub struct Given {
    pub list: Vec<Value>,
    pub named: Vec<(Rc<str>, Value)>,
}

impl Given {
    /// The operand of this name, or the one at this place.
    pub fn get(&self, at: usize, name: &str) -> Option<&Value> {
        self.list.get(at).or_else(|| self.named.iter().find(|n| &*n.0 == name).map(|n| &n.1))
    }
}

/// How a body went on.
#[derive(PartialEq)]
pub enum Flow {
    On,
    Break,
    Continue,
}

pub const FUNCTIONS: &[&str] = &["range", "dict", "namespace", "raise_exception", "strftime_now"];

impl<'t> Interpreter<'t> {
    pub fn new(budget: &'t Budget, values: Scope) -> Self {
        let functions = FUNCTIONS.iter().map(|f| (Rc::from(*f), Value::Function(f))).collect();
        Interpreter { budget, scopes: vec![functions, values], line: 1 }
    }
}
