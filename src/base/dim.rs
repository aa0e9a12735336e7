//! A dimension: a number, or an affine expression in named, bounded variables.

use super::{Error, Result};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Mutex;

/// A named variable with an upper bound, such as `seq ≤ 256`. Two variables are one if their names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var {
    pub name: &'static str,
    pub max: u32,
}

impl Var {
    pub const fn new(name: &'static str, max: u32) -> Self {
        Var { name, max }
    }
    /// A variable of one rank, such as the start of its piece. Such variables are within their axes by construction.
    pub fn local(name: &str, max: u32) -> Self {
        Var { name: intern(&format!("@{name}")), max }
    }
    pub fn is_local(&self) -> bool {
        self.name.starts_with('@')
    }
}

/// One copy of each name for good: there are few, and dimensions are copied everywhere.
fn intern(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(known) = names.get(name) {
        return known;
    }
    let fresh: &'static str = Box::leak(name.to_string().into_boxed_str());
    names.insert(fresh);
    fresh
}

/// The most variables one dimension may hold.
const TERMS: usize = 6;

/// `base + Σ coefficient · variable`. Terms are kept sorted by name and free of zeros, so equality is structural.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dim {
    base: i64,
    terms: [Option<(Var, i64)>; TERMS],
}

impl Dim {
    pub const fn new(n: i64) -> Self {
        Dim { base: n, terms: [None; TERMS] }
    }
    pub fn base(&self) -> i64 {
        self.base
    }
    pub fn terms(&self) -> impl Iterator<Item = (Var, i64)> + '_ {
        self.terms.iter().flatten().copied()
    }
    /// The number, where no variable is in it.
    pub fn known(&self) -> Option<i64> {
        self.terms[0].is_none().then_some(self.base)
    }
    pub fn is(&self, n: i64) -> bool {
        self.known() == Some(n)
    }
    /// The largest value, every variable at whichever of 0 and its bound makes it so.
    pub fn bound(&self) -> i64 {
        self.terms()
            .fold(self.base, |sum, (v, c)| sum.saturating_add(if c > 0 { c.saturating_mul(v.max as i64) } else { 0 }))
    }
    /// The value under `bindings`; an unbound variable or a negative result is an error.
    pub fn eval(&self, bindings: &Bindings) -> Result<u64> {
        let mut sum = self.base;
        for (v, c) in self.terms() {
            sum += c * bindings.get(v)? as i64;
        }
        u64::try_from(sum)
            .map_err(|_| Error::usage(format!("dimension {self} is {sum} under {bindings}: it may not be negative")))
    }
    /// `self / n` where every part divides.
    pub fn div_exact(&self, n: i64) -> Option<Dim> {
        if n == 0 || self.base % n != 0 || self.terms().any(|(_, c)| c % n != 0) {
            return None;
        }
        let mut out = *self;
        out.base /= n;
        out.terms.iter_mut().flatten().for_each(|t| t.1 /= n);
        Some(out)
    }
    fn combine(self, other: Dim, sign: i64) -> Dim {
        let mut all: Vec<(Var, i64)> = self.terms().collect();
        for (v, c) in other.terms() {
            match all.iter_mut().find(|(w, _)| w.name == v.name) {
                Some(t) => t.1 += sign * c,
                None => all.push((v, sign * c)),
            }
        }
        all.retain(|t| t.1 != 0);
        all.sort();
        assert!(all.len() <= TERMS, "a dimension holds at most {TERMS} variables");
        let mut terms = [None; TERMS];
        all.into_iter().enumerate().for_each(|(i, t)| terms[i] = Some(t));
        Dim { base: self.base + sign * other.base, terms }
    }
}

impl Add for Dim {
    type Output = Dim;
    fn add(self, other: Dim) -> Dim {
        self.combine(other, 1)
    }
}
impl Sub for Dim {
    type Output = Dim;
    fn sub(self, other: Dim) -> Dim {
        self.combine(other, -1)
    }
}
impl Mul<i64> for Dim {
    type Output = Dim;
    fn mul(mut self, n: i64) -> Dim {
        if n == 0 {
            return Dim::new(0);
        }
        self.base *= n;
        self.terms.iter_mut().flatten().for_each(|t| t.1 *= n);
        self
    }
}
impl From<Var> for Dim {
    fn from(v: Var) -> Dim {
        let mut d = Dim::new(0);
        d.terms[0] = Some((v, 1));
        d
    }
}
macro_rules! from_int { ($($t:ty),*) => { $(impl From<$t> for Dim { fn from(n: $t) -> Dim { Dim::new(n as i64) } })* } }
from_int!(i32, i64, u32, u64, usize);

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        for (v, c) in self.terms() {
            let sign = if c < 0 {
                "-"
            } else if text.is_empty() {
                ""
            } else {
                "+"
            };
            let times = if c.abs() == 1 { String::new() } else { format!("{}*", c.abs()) };
            text += &format!("{sign}{times}{}", v.name);
        }
        if text.is_empty() {
            text = self.base.to_string();
        } else if self.base != 0 {
            text += &format!("{:+}", self.base);
        }
        f.pad(&text)
    }
}
impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Values for variables, fixed for one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bindings(Vec<(&'static str, u64)>);

impl Bindings {
    pub fn new() -> Self {
        Self::default()
    }
    /// The same bindings with `name` set.
    pub fn with(mut self, name: &'static str, value: u64) -> Self {
        self.set(name, value);
        self
    }
    pub fn set(&mut self, name: &'static str, value: u64) {
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some(slot) => slot.1 = value,
            None => self.0.push((name, value)),
        }
    }
    /// The value of `var`; unbound or above its bound is an error.
    pub fn get(&self, var: Var) -> Result<u64> {
        let found = self.0.iter().find(|(n, _)| *n == var.name);
        let value = found.ok_or_else(|| Error::usage(format!("variable {} has no value in this step", var.name)))?.1;
        if value > var.max as u64 {
            return Err(Error::usage(format!("variable {} is {value}, its bound is {}", var.name, var.max)));
        }
        Ok(value)
    }
}

impl fmt::Display for Bindings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
        f.write_str(&parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    const SEQ: Var = Var::new("seq", 8);
    const PAST: Var = Var::new("past", 100);

    #[test]
    fn affine_arithmetic_prints_and_evaluates() {
        let d = (Dim::from(PAST) + SEQ.into()) * 2 - Dim::new(1);
        assert_eq!(d.to_string(), "2*past+2*seq-1");
        assert_eq!(d.bound(), 215);
        assert_eq!(d.eval(&Bindings::new().with("seq", 3).with("past", 10)).unwrap(), 25);
        assert_eq!(d - d, Dim::new(0));
        assert_eq!((Dim::from(SEQ) * 6).div_exact(3), Some(Dim::from(SEQ) * 2));
        assert_eq!((Dim::from(SEQ) * 6).div_exact(4), None);
    }

    #[test]
    fn a_value_out_of_bounds_is_refused() {
        let b = Bindings::new().with("seq", 9);
        assert_eq!(Dim::from(SEQ).eval(&b).unwrap_err().to_string(), "variable seq is 9, its bound is 8");
        assert_eq!(Dim::from(PAST).eval(&b).unwrap_err().to_string(), "variable past has no value in this step");
        let b = Bindings::new().with("seq", 1).with("past", 2);
        assert!((Dim::from(SEQ) - PAST.into()).eval(&b).is_err());
    }
}
