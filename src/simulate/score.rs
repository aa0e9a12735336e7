//! How good predictions are.

use serde::Deserialize;

/// One prediction beside its measurement.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    pub predicted: f64,
    pub measured: f64,
}

/// Over pairs of positive numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    pub rows: usize,
    /// Mean absolute percentage error, %.
    pub mape: f64,
    /// Mean signed percentage error, %: above zero where predictions are too large.
    pub bias: f64,
    /// Kendall's rank correlation (tau-b): 1 where the order is right throughout, 0 where it says nothing.
    pub tau: f64,
}

impl Score {
    /// None where there are no pairs.
    pub fn of(pairs: &[Pair]) -> Option<Score> {
        let n = pairs.len() as f64;
        let error = |p: &Pair| 100.0 * (p.predicted / p.measured - 1.0);
        (!pairs.is_empty()).then(|| Score {
            rows: pairs.len(),
            mape: pairs.iter().map(|p| error(p).abs()).sum::<f64>() / n,
            bias: pairs.iter().map(error).sum::<f64>() / n,
            tau: kendall(pairs),
        })
    }
}

/// What measurements were of predictions, on rows that nothing was fitted on: four of five lie within `low` to `high`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The table, and the figure in it.
    pub table: String,
    pub figure: String,
    pub low: f64,
    pub high: f64,
    pub rows: usize,
}

static INTERVALS: &str = include_str!("../../assets/validation/intervals.toml");

#[derive(Deserialize)]
struct Intervals {
    interval: Vec<Interval>,
}

impl Interval {
    /// The tenth and the ninetieth of a hundred of measured / predicted; none of no pairs.
    pub fn of(table: &str, figure: &str, pairs: &[Pair]) -> Option<Interval> {
        let mut all: Vec<f64> = pairs.iter().map(|p| p.measured / p.predicted).filter(|r| r.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        let at = |share: f64| all.get(((all.len().max(1) - 1) as f64 * share).round() as usize).copied();
        Some(Interval { table: table.into(), figure: figure.into(), low: at(0.1)?, high: at(0.9)?, rows: all.len() })
    }

    /// The frozen one of a table that comes along; a test holds it to the residuals of that table.
    pub fn known(table: &str, figure: &str) -> Option<Interval> {
        let all: Intervals = toml::from_str(INTERVALS).ok()?;
        all.interval.into_iter().find(|i| i.table == table && i.figure == figure)
    }

    /// What it rests on.
    pub fn text(&self, predicted: f64, shown: impl Fn(f64) -> String) -> String {
        format!(
            "{} to {}: so were four of five of {} measurements ({}) that nothing was fitted on",
            shown(predicted * self.low),
            shown(predicted * self.high),
            self.rows,
            self.table
        )
    }
}

/// Tau-b, which takes ties into account. Quadratic.
pub fn kendall(pairs: &[Pair]) -> f64 {
    let (mut agree, mut tied_p, mut tied_m, mut all) = (0i64, 0u64, 0u64, 0u64);
    for (i, a) in pairs.iter().enumerate() {
        for b in &pairs[i + 1..] {
            let (p, m) = (a.predicted.total_cmp(&b.predicted) as i64, a.measured.total_cmp(&b.measured) as i64);
            agree += p * m;
            tied_p += u64::from(p == 0);
            tied_m += u64::from(m == 0);
            all += 1;
        }
    }
    let below = ((all - tied_p) as f64 * (all - tied_m) as f64).sqrt();
    if below > 0.0 { agree as f64 / below } else { 0.0 }
}

/// The baseline: each row is predicted from the median rate of all others. `work` is what one constant would be divided
/// into (FLOPs, bytes): seconds = work / median(work / seconds).
pub fn one_constant(rows: &[(f64, f64)]) -> Vec<Pair> {
    let rate = |r: &(f64, f64)| r.0 / r.1;
    let others = |skip: usize| {
        let mut rates: Vec<f64> = rows
            .iter()
            .enumerate()
            .filter(|(i, _)| *i != skip)
            .map(|(_, r)| rate(r))
            .filter(|r| r.is_finite() && *r > 0.0)
            .collect();
        rates.sort_by(f64::total_cmp);
        let n = rates.len();
        if n == 0 { f64::NAN } else { (rates[(n - 1) / 2] + rates[n / 2]) / 2.0 }
    };
    let pair = |(i, r): (usize, &(f64, f64))| Pair { predicted: r.0 / others(i), measured: r.1 };
    rows.iter().enumerate().map(pair).filter(|p| p.predicted.is_finite()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_of_known_pairs() {
        let pair = |predicted, measured| Pair { predicted, measured };
        let s = Score::of(&[pair(11.0, 10.0), pair(18.0, 20.0), pair(30.0, 30.0)]).unwrap();
        assert!((s.mape - 20.0 / 3.0).abs() < 1e-9 && s.bias.abs() < 1e-9 && s.tau == 1.0);
        assert_eq!(kendall(&[pair(3.0, 1.0), pair(2.0, 2.0), pair(1.0, 3.0)]), -1.0);
        assert!(Score::of(&[]).is_none());
    }

    #[test]
    fn the_baseline_leaves_its_own_row_out() {
        // Rates 1, 2, 10: the row of rate 10 is predicted from the median of 1 and 2.
        let pairs = one_constant(&[(1.0, 1.0), (2.0, 1.0), (10.0, 1.0)]);
        assert_eq!(pairs.iter().map(|p| p.predicted).collect::<Vec<_>>(), [1.0 / 6.0, 2.0 / 5.5, 10.0 / 1.5]);
    }
}
