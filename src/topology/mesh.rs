//! A mesh of named axes over ranks.

use crate::base::{Error, Result};

/// The axes that a mesh may have: data, pipeline, tensor, context, sequence and expert parallel.
pub const AXES: [&str; 6] = ["dp", "pp", "tp", "cp", "sp", "ep"];
/// No machine has more devices than this; a mesh beyond it is a typing error.
const MOST_RANKS: usize = 1 << 24;

/// Named axes with sizes. The rank is the coordinates read as a number with the first axis as its highest digit, so
/// neighbours along the last axis are neighbours in rank: `pp=2,tp=3` has stage 0 on ranks 0, 1, 2.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mesh {
    axes: Vec<(String, usize)>,
}

impl Mesh {
    /// A mesh of one rank without axes.
    pub fn single() -> Mesh {
        Mesh { axes: vec![] }
    }

    /// Reads `pp=2,tp=3`. Errors: an unknown axis, one named twice, `cp` beside `sp` (both split the sequence), a size
    /// that is no number from 1 up, more ranks than any machine has.
    pub fn parse(text: &str) -> Result<Mesh> {
        let bad = |what: String| Error::usage(format!("mesh \"{text}\": {what}"));
        let mut axes: Vec<(String, usize)> = vec![];
        let mut ranks = 1usize;
        for piece in text.split(',').map(str::trim).filter(|_| !text.trim().is_empty()) {
            let (name, size) =
                piece.split_once('=').ok_or_else(|| bad(format!("\"{piece}\" is not AXIS=SIZE, such as tp=2")))?;
            let (name, size) = (name.trim(), size.trim());
            if !AXES.contains(&name) {
                return Err(bad(format!("there is no axis \"{name}\": axes are {}", AXES.join(", "))));
            }
            if axes.iter().any(|a| a.0 == name) {
                return Err(bad(format!("axis {name} is named twice")));
            }
            let size = size.parse::<usize>().ok().filter(|n| *n >= 1);
            let size = size.ok_or_else(|| {
                bad(format!(
                    "axis {name} needs a size from 1 up, \"{}\" is none",
                    piece.split_once('=').map_or("", |p| p.1.trim())
                ))
            })?;
            ranks = ranks
                .checked_mul(size)
                .filter(|n| *n <= MOST_RANKS)
                .ok_or_else(|| bad(format!("has more than {MOST_RANKS} ranks")))?;
            axes.push((name.into(), size));
        }
        if axes.iter().any(|a| a.0 == "cp") && axes.iter().any(|a| a.0 == "sp") {
            return Err(bad("cp and sp both split the sequence: name one of them".into()));
        }
        Ok(Mesh { axes })
    }

    /// Axes with their sizes, outermost first.
    pub fn axes(&self) -> &[(String, usize)] {
        &self.axes
    }

    /// The size of an axis; 1 where the mesh does not name it.
    pub fn size(&self, axis: &str) -> usize {
        self.axes.iter().find(|a| a.0 == axis).map_or(1, |a| a.1)
    }

    pub fn ranks(&self) -> usize {
        self.axes.iter().map(|a| a.1).product()
    }

    /// Where a rank stands along each axis, in the order of [`axes`](Self::axes). A rank beyond the mesh wraps around.
    pub fn coordinates(&self, rank: usize) -> Vec<usize> {
        let mut rest = rank;
        let mut out: Vec<usize> = vec![0; self.axes.len()];
        for (slot, (_, n)) in out.iter_mut().zip(&self.axes).rev() {
            *slot = rest % n;
            rest /= n;
        }
        out
    }

    /// The rank at these coordinates: the inverse of [`coordinates`](Self::coordinates). Missing coordinates are 0.
    pub fn rank(&self, coordinates: &[usize]) -> usize {
        self.axes
            .iter()
            .enumerate()
            .fold(0, |rank, (i, (_, n))| rank * n + coordinates.get(i).copied().unwrap_or(0) % n)
    }

    /// Ranks that differ along `axis` only, each group in the axis' order; groups in the order of their first rank.
    /// An axis that the mesh does not name gives every rank a group of its own.
    pub fn groups(&self, axis: &str) -> Vec<Vec<usize>> {
        let Some(at) = self.axes.iter().position(|a| a.0 == axis) else {
            return (0..self.ranks()).map(|r| vec![r]).collect();
        };
        let (size, stride) = (self.axes[at].1, self.axes[at + 1..].iter().map(|a| a.1).product::<usize>());
        let firsts = (0..self.ranks()).filter(|r| (r / stride) % size == 0);
        firsts.map(|first| (0..size).map(|i| first + i * stride).collect()).collect()
    }

    /// The same axes ordered by how much they talk: pipeline and data outermost, then experts, context, tensor innermost.
    /// Ranks of a tensor group then lie nearest to each other.
    pub fn by_traffic(&self) -> Mesh {
        const ORDER: [&str; 6] = ["pp", "dp", "ep", "sp", "cp", "tp"];
        let mut axes = self.axes.clone();
        axes.sort_by_key(|a| ORDER.iter().position(|o| *o == a.0));
        Mesh { axes }
    }

    /// Rank `r` plays on device `r`: devices are numbered with near ones together, so the innermost axis is nearest.
    /// Fails where the mesh has not exactly `devices` ranks.
    pub fn fit(&self, devices: usize) -> Result<()> {
        if self.ranks() == devices {
            return Ok(());
        }
        let product = self.axes.iter().map(|a| a.1.to_string()).collect::<Vec<_>>().join(" × ");
        let ranks =
            if self.axes.len() > 1 { format!("{product} = {}", self.ranks()) } else { self.ranks().to_string() };
        Err(Error::usage(format!(
            "mesh {self} has {ranks} ranks, there are {devices} devices: change an axis, or the number of devices"
        )))
    }
}

impl std::fmt::Display for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let text: Vec<String> = self.axes.iter().map(|(a, n)| format!("{a}={n}")).collect();
        f.write_str(if text.is_empty() { "of one device" } else { "" })?;
        f.write_str(&text.join(","))
    }
}
