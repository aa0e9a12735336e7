//! What a template says, as a tree.

use std::rc::Rc;

pub enum Node {
    Text(Rc<str>),
    Print(Expr),
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    For(Rc<For>),
    Set(Target, Expr),
    /// The text of a block, through filters.
    SetBlock(Target, Vec<FilterCall>, Vec<Stmt>),
    Macro(Rc<Macro>),
    /// A call whose body the called macro may ask for.
    Call(Expr, Rc<Macro>),
    Filter(Vec<FilterCall>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    /// What runs in a scope of its own, and nothing else: a block, or what the assistant said.
    Body(Vec<Stmt>),
    Break,
    Continue,
}

/// A node with its line.
pub struct Stmt {
    pub line: u32,
    pub node: Node,
}

pub struct For {
    pub target: Target,
    pub over: Expr,
    pub only: Option<Expr>,
    pub body: Vec<Stmt>,
    pub otherwise: Vec<Stmt>,
    pub recursive: bool,
}

pub struct Macro {
    pub name: Rc<str>,
    pub parameters: Vec<(Rc<str>, Option<Expr>)>,
    pub body: Vec<Stmt>,
}

pub enum Target {
    Name(Rc<str>),
    /// An attribute of a namespace.
    Attr(Rc<str>, Rc<str>),
    Tuple(Vec<Target>),
}

pub struct FilterCall {
    pub name: Rc<str>,
    pub args: Args,
}

#[derive(Default)]
pub struct Args {
    pub list: Vec<Expr>,
    pub named: Vec<(Rc<str>, Expr)>,
    /// `*more` and `**named`.
    pub more: Option<Box<Expr>>,
    pub more_named: Option<Box<Expr>>,
}

/// A value that is written out.
pub enum Literal {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Rc<str>),
}

pub enum Expr {
    Const(Literal),
    Name(Rc<str>),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Unary(Sign, Box<Expr>),
    Math(Math, Box<Expr>, Box<Expr>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// Then, condition, else.
    Cond(Box<(Expr, Expr, Option<Expr>)>),
    Filter(Box<Expr>, FilterCall),
    Test(Box<Expr>, FilterCall, bool),
    Attr(Box<Expr>, Rc<str>),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Args),
}

#[derive(Clone, Copy, PartialEq)]
pub enum Sign {
    Plus,
    Minus,
    Not,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Math {
    Add,
    Sub,
    Mul,
    Div,
    Floor,
    Rem,
    Pow,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}
