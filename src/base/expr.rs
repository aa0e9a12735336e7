//! Polynomials in variables: element counts, strides, FLOPs and bytes of a plan, evaluated once a step.

use super::{Bindings, Dim, Result, Var};
use std::fmt;
use std::ops::{Add, Mul};

/// `Σ coefficient · Π variables`, monomials sorted, no zero coefficients: equality is structural.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Expr(Vec<(Vec<Var>, i64)>);

impl Expr {
    pub fn new(n: i64) -> Self {
        Expr(if n == 0 { vec![] } else { vec![(vec![], n)] })
    }
    /// The product of dims: how many elements a shape has.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Dim>) -> Self {
        dims.into_iter().fold(Expr::new(1), |p, d| p * Expr::from(*d))
    }
    pub fn known(&self) -> Option<i64> {
        match self.0.as_slice() {
            [] => Some(0),
            [(vars, n)] if vars.is_empty() => Some(*n),
            _ => None,
        }
    }
    pub fn is(&self, n: i64) -> bool {
        self.known() == Some(n)
    }
    /// The value with every variable at its bound (saturating; negative terms count as zero).
    pub fn bound(&self) -> u64 {
        self.0.iter().filter(|t| t.1 > 0).fold(0u64, |sum, (vars, n)| {
            sum.saturating_add(vars.iter().fold(*n as u64, |p, v| p.saturating_mul(v.max as u64)))
        })
    }
    /// The same as a dimension, where no two variables are multiplied.
    pub fn as_dim(&self) -> Option<Dim> {
        self.0.iter().try_fold(Dim::new(0), |sum, (vars, n)| match vars.as_slice() {
            [] => Some(sum + Dim::new(*n)),
            [v] => Some(sum + Dim::from(*v) * *n),
            _ => None,
        })
    }
    pub fn eval(&self, bindings: &Bindings) -> Result<i64> {
        let mut sum = 0i64;
        for (vars, n) in &self.0 {
            let mut product = *n;
            for v in vars {
                product = product.saturating_mul(bindings.get(*v)? as i64);
            }
            sum = sum.saturating_add(product);
        }
        Ok(sum)
    }
}

impl Expr {
    /// The shares `part` of `of` that this is made of, rounded so that all parts add up to the whole.
    pub fn portion(&self, part: std::ops::Range<i64>, of: i64) -> Expr {
        let until = |c: i64, end: i64| c as i128 * end as i128 / of.max(1) as i128;
        normal(
            self.0
                .iter()
                .map(|(vars, c)| (vars.clone(), (until(*c, part.end) - until(*c, part.start)) as i64))
                .collect(),
        )
    }
    /// Whether every value is a multiple of `n`, whatever the variables are.
    pub fn divisible_by(&self, n: i64) -> bool {
        self.0.iter().all(|(_, c)| c % n == 0)
    }
}

impl From<i64> for Expr {
    fn from(n: i64) -> Expr {
        Expr::new(n)
    }
}

impl From<Dim> for Expr {
    fn from(d: Dim) -> Expr {
        let mut terms: Vec<(Vec<Var>, i64)> = d.terms().map(|(v, c)| (vec![v], c)).collect();
        terms.push((vec![], d.base()));
        normal(terms)
    }
}

fn normal(mut terms: Vec<(Vec<Var>, i64)>) -> Expr {
    terms.sort();
    let mut out: Vec<(Vec<Var>, i64)> = vec![];
    for (vars, n) in terms {
        match out.last_mut() {
            Some(last) if last.0 == vars => last.1 = last.1.saturating_add(n),
            _ => out.push((vars, n)),
        }
    }
    out.retain(|t| t.1 != 0);
    Expr(out)
}

impl Add for Expr {
    type Output = Expr;
    fn add(mut self, mut other: Expr) -> Expr {
        self.0.append(&mut other.0);
        normal(self.0)
    }
}
impl Mul for Expr {
    type Output = Expr;
    fn mul(self, other: Expr) -> Expr {
        let mut terms = vec![];
        for (a, n) in &self.0 {
            for (b, m) in &other.0 {
                let mut vars = [a.as_slice(), b.as_slice()].concat();
                vars.sort();
                terms.push((vars, n.saturating_mul(*m)));
            }
        }
        normal(terms)
    }
}
impl Mul<i64> for Expr {
    type Output = Expr;
    fn mul(self, n: i64) -> Expr {
        self * Expr::new(n)
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("0");
        }
        let mut text = String::new();
        for (vars, n) in self.0.iter().rev() {
            let names: Vec<&str> = vars.iter().map(|v| v.name).collect();
            let sign = if *n < 0 {
                "-"
            } else if text.is_empty() {
                ""
            } else {
                "+"
            };
            text += sign;
            match (n.abs(), names.is_empty()) {
                (n, true) => text += &n.to_string(),
                (1, false) => text += &names.join("*"),
                (n, false) => text += &format!("{n}*{}", names.join("*")),
            }
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_multiply_collect_and_print() {
        let seq = Expr::from(Dim::from(Var::new("seq", 4)));
        let past = Expr::from(Dim::from(Var::new("past", 10)));
        let e = (seq.clone() + past.clone()) * (seq.clone() + Expr::new(2)) + past * -2;
        assert_eq!(e.to_string(), "seq*seq+2*seq+past*seq");
        assert_eq!(e.bound(), 16 + 8 + 40);
        assert_eq!(e.eval(&Bindings::new().with("seq", 3).with("past", 5)).unwrap(), 9 + 6 + 15);
        assert_eq!((seq.clone() + seq * -1).known(), Some(0));
    }

    #[test]
    fn portions_add_up_to_the_whole() {
        let n = Var::new("n", 50);
        let e = Expr::from(Dim::from(n)) * 1001 + Expr::new(7);
        for cuts in [vec![0, 300], vec![0, 256, 300], vec![0, 1, 2, 299, 300]] {
            let sum = cuts.windows(2).fold(Expr::new(0), |sum, w| sum + e.portion(w[0]..w[1], 300));
            assert_eq!(sum, e, "{cuts:?}");
        }
        assert_eq!(Expr::new(600).portion(256..300, 300), Expr::new(88));
    }
}
