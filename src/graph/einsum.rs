//! Einstein's sums: products and sums of tensors whose axes have letters.

use super::{GraphBuilder, Tensor};
use crate::base::{Dim, Error, Result};

/// A tensor with a letter for each axis.
struct Lettered<'g> {
    x: Tensor<'g>,
    axes: Vec<char>,
}

impl GraphBuilder {
    /// Einstein's sum, such as `"bhqd,bhkd->bhqk"`: letters name axes, those that the result lacks are summed. Without `->` the
    /// result has the letters that occur once, in order. `...` stands for all axes that have no letter, matched from the last on;
    /// without `->` they come first. Spaces are passed over; letters twice in one operand are not known. Two operands at a time
    /// become one product of matrices.
    pub fn einsum(&self, spec: &str, operands: &[Tensor<'_>]) -> Tensor<'_> {
        self.or_fail(self.try_einsum(spec, operands))
    }

    fn try_einsum(&self, spec: &str, operands: &[Tensor<'_>]) -> Result<Tensor<'_>> {
        let wrong = |what: String| Error::op("einsum", spec, what);
        let spec: String = spec.chars().filter(|c| !c.is_whitespace()).collect();
        let (left, right) = spec.split_once("->").map_or((&spec[..], None), |(l, r)| (l, Some(r)));
        let given: Vec<&str> = left.split(',').collect();
        if given.len() != operands.len() {
            return Err(wrong(format!("names {} operands, got {}", given.len(), operands.len())));
        }
        let unnamed = given.iter().zip(operands).filter(|(s, _)| s.contains("..."));
        let unnamed = unnamed.map(|(s, x)| x.shape().rank().saturating_sub(s.chars().count() - 3)).max();
        let of_rank =
            |(s, x): (&&str, &Tensor)| named(s, x.shape().rank().saturating_sub(s.chars().count().saturating_sub(3)));
        let names: Vec<Vec<char>> = given.iter().zip(operands).map(of_rank).collect();
        if right.is_some_and(|r| !r.contains("...")) && unnamed.is_some_and(|n| n > 0) {
            return Err(wrong("the result lacks the \"...\" of the operands".into()));
        }
        let all: Vec<char> = names.concat();
        let once = || {
            let mut letters: Vec<char> = all
                .iter()
                .filter(|c| !is_unnamed(**c) && all.iter().filter(|d| d == c).count() == 1)
                .copied()
                .collect();
            letters.sort_unstable();
            [named("...", unnamed.unwrap_or(0)), letters].concat()
        };
        let out: Vec<char> = right.map_or_else(once, |r| named(r, unnamed.unwrap_or(0)));
        let mut terms: Vec<Lettered> = vec![];
        for (axes, x) in names.into_iter().zip(operands) {
            let x = self.adopt(*x);
            let shape = x.shape();
            if axes.len() != shape.rank() || axes.iter().any(|c| !c.is_alphabetic() && !is_unnamed(*c)) {
                return Err(wrong(format!("\"{}\" does not name the axes of {shape}", written(&axes))));
            }
            if (1..axes.len()).any(|i| axes[..i].contains(&axes[i])) {
                return Err(wrong(format!("\"{}\" names an axis twice", written(&axes))));
            }
            terms.push(Lettered { x, axes });
        }
        if let Some(c) = out.iter().enumerate().find(|(i, c)| !all.contains(c) || out[..*i].contains(c)).map(|c| c.1) {
            return Err(wrong(format!("the result names '{c}', which no operand has, or twice")));
        }
        let mut done = terms.remove(0);
        let later = |terms: &[Lettered], c: &char| out.contains(c) || terms.iter().any(|t| t.axes.contains(c));
        while !terms.is_empty() {
            let next = terms.remove(0);
            let keep = |c: &char| later(&terms, c);
            done = contract(done, next, &keep).map_err(wrong)?;
        }
        let done = done.summed(&|c| out.contains(c));
        let perm: Vec<usize> = out.iter().filter_map(|c| done.axes.iter().position(|a| a == c)).collect();
        Ok(if perm.is_sorted() { done.x } else { done.x.transpose(&perm) })
    }
}

/// Letters for axes that have none, the last axis first.
const UNNAMED: u32 = 0xE000;

fn is_unnamed(c: char) -> bool {
    (UNNAMED..=0xF8FF).contains(&(c as u32))
}

/// The letters of an operand, with those of `n` axes for its `...`.
fn named(spec: &str, n: usize) -> Vec<char> {
    let axes: String = (0..n as u32).rev().filter_map(|i| char::from_u32(UNNAMED + i)).collect();
    spec.replacen("...", &axes, 1).chars().collect()
}

/// Letters as the caller gave them.
fn written(axes: &[char]) -> String {
    let first = axes.iter().position(|c| is_unnamed(*c));
    let letter = |(i, c): (usize, &char)| match is_unnamed(*c) {
        false => c.to_string(),
        true => if first == Some(i) { "..." } else { "" }.to_string(),
    };
    axes.iter().enumerate().map(letter).collect()
}

impl<'g> Lettered<'g> {
    fn dim(&self, c: char) -> Dim {
        self.axes.iter().position(|a| *a == c).map_or(Dim::new(1), |i| self.x.dim(i))
    }
    /// Without the axes that nobody asks for.
    fn summed(self, keep: &dyn Fn(&char) -> bool) -> Lettered<'g> {
        let gone: Vec<usize> = (0..self.axes.len()).filter(|i| !keep(&self.axes[*i])).collect();
        if gone.is_empty() {
            return self;
        }
        let axes = self.axes.iter().filter(|c| keep(c)).copied().collect();
        Lettered { x: self.x.sum(&gone), axes }
    }
    /// With these letters in this order, as groups of axes that become one each.
    fn grouped(&self, groups: &[&[char]]) -> Option<Tensor<'g>> {
        let order: Vec<char> = groups.concat();
        let perm: Vec<usize> = order.iter().filter_map(|c| self.axes.iter().position(|a| a == c)).collect();
        let one = |group: &&[char]| {
            let dims: Vec<Dim> = group.iter().map(|c| self.dim(*c)).collect();
            crate::base::Expr::product(&dims).as_dim()
        };
        let shape = groups.iter().map(one).collect::<Option<Vec<Dim>>>()?;
        Some(self.x.transpose(&perm).reshape(shape))
    }
}

/// Two tensors as one product of matrices: letters of both that stay are its batch, letters of both that go its inner axis.
fn contract<'g>(a: Lettered<'g>, b: Lettered<'g>, keep: &dyn Fn(&char) -> bool) -> Result<Lettered<'g>, String> {
    let a = a.summed(&|c| keep(c) || b.axes.contains(c));
    let b = b.summed(&|c| keep(c) || a.axes.contains(c));
    let both: Vec<char> = a.axes.iter().filter(|c| b.axes.contains(c)).copied().collect();
    for c in &both {
        let (x, y) = (a.dim(*c), b.dim(*c));
        if x != y {
            return Err(format!("axis '{}' is {x} and {y}", written(&[*c])));
        }
    }
    let (batch, inner): (Vec<char>, Vec<char>) = both.iter().partition(|c| keep(c));
    let alone = |of: &Lettered| of.axes.iter().filter(|c| !both.contains(c)).copied().collect::<Vec<char>>();
    let (rows, columns) = (alone(&a), alone(&b));
    let varies = || "axes that vary between steps cannot be put together".to_string();
    let left = a.grouped(&[&batch, &rows, &inner]).ok_or_else(varies)?;
    let right = b.grouped(&[&batch, &columns, &inner]).ok_or_else(varies)?;
    let shape: Vec<Dim> =
        (batch.iter().chain(&rows)).map(|c| a.dim(*c)).chain(columns.iter().map(|c| b.dim(*c))).collect();
    let product = left.matmul_t(right).reshape(shape);
    Ok(Lettered { x: product, axes: [batch, rows, columns].concat() })
}
