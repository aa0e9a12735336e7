//! A dimension: a number, or an affine expression in named, bounded variables.

use super::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Mutex;

/// A named variable with an upper bound, such as `seq ≤ 256`. Two variables are one if their names are: a graph refuses
/// one name with two bounds.
///
/// ```
/// use warpweft::{Bindings, Dim, Var};
///
/// let rows = Dim::from(Var::new("seq", 256)) * 2 + Dim::new(1);
/// assert_eq!((rows.known(), rows.bound()), (None, 513));
/// assert_eq!(rows.eval(&Bindings::new().with("seq", 10))?, 21);
/// # Ok::<(), warpweft::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Var {
    /// Its name: what makes it the same variable elsewhere.
    pub name: &'static str,
    /// The largest value that a step may give it.
    pub max: u32,
}

impl Var {
    /// A variable of steps, up to `max`.
    pub const fn new(name: &'static str, max: u32) -> Self {
        Var { name, max }
    }
    /// A variable of one rank, such as the start of its piece. Such variables are within their axes by construction.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn local(name: &str, max: u32) -> Self {
        Var { name: intern(&format!("@{name}")), max }
    }
    /// Whether it is of one rank only.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn is_local(&self) -> bool {
        self.name.starts_with('@')
    }
}

impl PartialEq for Var {
    fn eq(&self, other: &Var) -> bool {
        self.name == other.name
    }
}
impl Eq for Var {}
impl std::hash::Hash for Var {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}
impl PartialOrd for Var {
    fn partial_cmp(&self, other: &Var) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Var {
    fn cmp(&self, other: &Var) -> std::cmp::Ordering {
        self.name.cmp(other.name)
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

/// The same for sums of variables. Here a bound is a part of the key: variables of one name may have other bounds elsewhere.
fn intern_terms(terms: Vec<(Var, i64)>) -> &'static [(Var, i64)] {
    type Key = Vec<(&'static str, u32, i64)>;
    static SUMS: Mutex<BTreeMap<Key, &'static [(Var, i64)]>> = Mutex::new(BTreeMap::new());
    if terms.is_empty() {
        return &[];
    }
    let key = terms.iter().map(|(v, c)| (v.name, v.max, *c)).collect();
    let mut sums = SUMS.lock().unwrap_or_else(|e| e.into_inner());
    sums.entry(key).or_insert_with(|| Vec::leak(terms))
}

/// `base + Σ coefficient · variable`. Terms are sorted by name and free of zeros, so equality is structural. What is beyond
/// 64 bits stays at their end: a graph refuses axes far below that.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Dim {
    base: i64,
    terms: &'static [(Var, i64)],
}

impl Dim {
    /// A number.
    pub const fn new(n: i64) -> Self {
        Dim { base: n, terms: &[] }
    }
    /// The number beside the variables.
    pub fn base(&self) -> i64 {
        self.base
    }
    /// Variables with their coefficients, by name.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn terms(&self) -> impl Iterator<Item = (Var, i64)> + '_ {
        self.terms.iter().copied()
    }
    /// The number, where no variable is in it.
    pub fn known(&self) -> Option<i64> {
        self.terms.is_empty().then_some(self.base)
    }
    /// Whether it is this number, whatever the variables are.
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
        let mut sum = self.base as i128;
        for (v, c) in self.terms() {
            sum += c as i128 * bindings.get(v)? as i128;
        }
        u64::try_from(sum)
            .map_err(|_| Error::usage(format!("dimension {self} is {sum} under {bindings}: it may not be negative")))
    }
    /// `self / n` where every part divides.
    #[cfg_attr(not(feature = "internals"), doc(hidden))]
    pub fn div_exact(&self, n: i64) -> Option<Dim> {
        if n == 0 || self.base % n != 0 || self.terms().any(|(_, c)| c % n != 0) {
            return None;
        }
        Some(self.mapped(|c| c / n))
    }
    /// With every coefficient, and the number beside them, changed; none to zero.
    fn mapped(&self, f: impl Fn(i64) -> i64) -> Dim {
        Dim { base: f(self.base), terms: intern_terms(self.terms().map(|(v, c)| (v, f(c))).collect()) }
    }
    fn combine(self, other: Dim, sign: i64) -> Dim {
        let mut all: Vec<(Var, i64)> = self.terms().collect();
        for (v, c) in other.terms() {
            match all.iter_mut().find(|(w, _)| *w == v) {
                Some(t) => t.1 = t.1.saturating_add(c.saturating_mul(sign)),
                None => all.push((v, c.saturating_mul(sign))),
            }
        }
        all.retain(|t| t.1 != 0);
        all.sort();
        Dim { base: self.base.saturating_add(other.base.saturating_mul(sign)), terms: intern_terms(all) }
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
    fn mul(self, n: i64) -> Dim {
        if n == 0 { Dim::new(0) } else { self.mapped(|c| c.saturating_mul(n)) }
    }
}
impl From<Var> for Dim {
    fn from(v: Var) -> Dim {
        Dim { base: 0, terms: intern_terms(vec![(v, 1)]) }
    }
}
macro_rules! from_int { ($($t:ty),*) => { $(impl From<$t> for Dim { fn from(n: $t) -> Dim { Dim::new(n as i64) } })* } }
from_int!(i32, i64, u32);
/// Numbers beyond `i64` stay at its end, where every graph refuses them.
macro_rules! from_wide { ($($t:ty),*) => { $(impl From<$t> for Dim { fn from(n: $t) -> Dim { Dim::new(i64::try_from(n).unwrap_or(i64::MAX)) } })* } }
from_wide!(u64, usize);

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
///
/// ```
/// use warpweft::{Bindings, Var};
///
/// let bindings = Bindings::new().with("seq", 10);
/// assert_eq!(bindings.get(Var::new("seq", 256))?, 10);
/// assert!(bindings.get(Var::new("seq", 8)).is_err(), "beyond its bound");
/// # Ok::<(), warpweft::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bindings(Vec<(&'static str, u64)>);

impl Bindings {
    /// No variable bound.
    pub fn new() -> Self {
        Self::default()
    }
    /// The same bindings with `name` set.
    pub fn with(mut self, name: &'static str, value: u64) -> Self {
        self.set(name, value);
        self
    }
    /// Gives a variable its value.
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
    fn any_number_of_variables_add_up() {
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let sum = names.iter().fold(Dim::new(1), |sum, n| sum + Dim::from(Var::new(n, 4)) * 2);
        assert_eq!((sum.bound(), sum.terms().count()), (73, 9));
        assert_eq!(sum - sum, Dim::new(0));
    }

    #[test]
    fn numbers_beyond_64_bits_stay_at_their_end() {
        assert_eq!(Dim::from(usize::MAX).known(), Some(i64::MAX));
        assert_eq!((Dim::from(u64::MAX) + Dim::new(3)).known(), Some(i64::MAX));
        assert_eq!((Dim::from(SEQ) * i64::MAX).bound(), i64::MAX);
        assert!((Dim::from(SEQ) * i64::MAX).eval(&Bindings::new().with("seq", 8)).is_err());
    }

    #[test]
    fn a_variable_is_its_name_whatever_its_bound() {
        let (near, far) = (Dim::from(Var::new("n", 4)), Dim::from(Var::new("n", 9)));
        assert_eq!(near, far);
        assert_eq!((near.bound(), far.bound()), (4, 9));
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
