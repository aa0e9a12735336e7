//! Hardware that might be: one figure of a machine set or scaled, and which figures are worth money.

use crate::base::units::{BytesPerSecond, FlopsPerSecond, Seconds};
use crate::base::{Error, Result};
use crate::topology::{Device, Link, Precision, Role, Topology};

/// What can be changed, for messages and for sensitivities.
pub const FIGURES: [&str; 11] = [
    "device.peak",
    "device.peak.PRECISION",
    "device.hbm_bandwidth",
    "device.memory",
    "device.limit",
    "device.idle",
    "device.price",
    "link.bandwidth",
    "link.latency",
    "network.bandwidth",
    "network.latency",
];

/// A new value, or a factor on the old one.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To<'a> {
    Text(&'a str),
    Times(f64),
}

/// Applies `device.hbm_bandwidth=8TB/s`, `link.bandwidth=1.8TB/s` or `network.bandwidth=x2`. `link` are the links of devices
/// within a node (all lanes, one direction), `network` those between a NIC and the fabric. Errors: an unknown figure, a
/// wrong unit, a value that is not above zero, a machine without such links.
pub fn set(topology: &mut Topology, text: &str) -> Result<()> {
    let bad = |what: String| Error::usage(format!("--set {text}: {what}"));
    let (key, value) =
        text.split_once('=').ok_or_else(|| bad("is not FIGURE=VALUE, such as device.hbm_bandwidth=8TB/s".into()))?;
    let (key, value) = (key.trim(), value.trim());
    let to = match value.strip_prefix(['x', '*']) {
        Some(factor) => To::Times(
            factor
                .parse::<f64>()
                .ok()
                .filter(|f| f.is_finite() && *f > 0.0)
                .ok_or_else(|| bad(format!("{value} is no factor above zero")))?,
        ),
        None => To::Text(value),
    };
    change(topology, key, to).map_err(|e| bad(e.to_string()))
}

fn one<T: std::str::FromStr<Err = Error>>(to: To, old: f64, raw: fn(&T) -> f64) -> Result<f64> {
    let new = match to {
        To::Times(f) => old * f,
        To::Text(t) => raw(&t.parse::<T>()?),
    };
    if new > 0.0 { Ok(new) } else { Err(Error::usage(format!("{new} must be above zero"))) }
}

fn change(t: &mut Topology, key: &str, to: To) -> Result<()> {
    match key.split_once('.') {
        Some(("device", figure)) => {
            for g in &mut t.groups {
                if let Role::Device(d) = &mut g.role {
                    device(d, figure, to)?;
                }
            }
            Ok(())
        }
        Some((which @ ("link" | "network"), figure)) => {
            let mine: Vec<usize> = (0..t.links.len()).filter(|i| belongs(t, &t.links[*i], which)).collect();
            if mine.is_empty() {
                return Err(Error::usage(format!("{} has no such links", t.name)));
            }
            mine.into_iter().try_for_each(|i| link(&mut t.links[i], figure, to))
        }
        _ => Err(unknown(key)),
    }
}

fn unknown(key: &str) -> Error {
    Error::usage(format!("there is no figure \"{key}\": there are {}", FIGURES.join(", ")))
}

/// `link`: what a device talks to its node's others over; `network`: between NIC and fabric.
fn belongs(t: &Topology, l: &Link, which: &str) -> bool {
    let ends = [&t.groups[l.from].role, &t.groups[l.to].role];
    let near = t.levels().first().map(|level| level.way.kind.clone());
    match which {
        "network" => {
            ends.iter().any(|r| matches!(r, Role::Nic))
                && ends.iter().any(|r| matches!(r, Role::Switch { .. }))
                && near.as_ref() != Some(&l.kind)
        }
        _ => near.is_none_or(|k| k == l.kind),
    }
}

fn device(d: &mut Device, figure: &str, to: To) -> Result<()> {
    match figure {
        "hbm_bandwidth" | "bandwidth" => d.bandwidth.0 = one::<BytesPerSecond>(to, d.bandwidth.0, |v| v.0)?,
        "memory" | "hbm_memory" => d.memory.0 = one::<crate::base::units::Bytes>(to, d.memory.0, |v| v.0)?,
        "limit" | "power" => d.limit.0 = one::<crate::base::units::Watts>(to, d.limit.0, |v| v.0)?,
        "idle" => d.idle.0 = one::<crate::base::units::Watts>(to, d.idle.0, |v| v.0)?,
        "price" => {
            d.price = Some(crate::base::units::PricePerHour(one::<crate::base::units::PricePerHour>(
                to,
                d.price.map_or(0.0, |p| p.0),
                |v| v.0,
            )?))
        }
        "peak" => {
            let To::Times(f) = to else {
                return Err(Error::usage(
                    "device.peak takes a factor for all formats (x2); for one, name it: device.peak.bf16=2PFLOP/s",
                ));
            };
            d.peak.iter_mut().for_each(|p| p.1.0 *= f);
        }
        other => {
            let name = other.strip_prefix("peak.").ok_or_else(|| unknown(&format!("device.{other}")))?;
            let precision: Precision = name.parse()?;
            let old = d.peak(precision).map_or(0.0, |p| p.0);
            let new = FlopsPerSecond(one::<FlopsPerSecond>(to, old, |v| v.0)?);
            match d.peak.iter_mut().find(|p| p.0 == precision) {
                Some(p) => p.1 = new,
                None => d.peak.push((precision, new)),
            }
        }
    }
    Ok(())
}

fn link(l: &mut Link, figure: &str, to: To) -> Result<()> {
    match figure {
        "bandwidth" => l.lane = BytesPerSecond(one::<BytesPerSecond>(to, l.bandwidth().0, |v| v.0)? / l.lanes as f64),
        "latency" => l.latency = Seconds(one::<Seconds>(to, l.latency.0, |v| v.0)?),
        other => return Err(unknown(&format!("link.{other}"))),
    }
    Ok(())
}

/// What one per cent more of a figure does to the time, in per cent: below zero where it helps. `seconds` prices a machine.
pub fn sensitivities(
    topology: &Topology,
    seconds: &dyn Fn(&Topology) -> Result<f64>,
) -> Result<Vec<(&'static str, f64)>> {
    let base = seconds(topology)?;
    let mut out = vec![];
    for figure in [
        "device.peak",
        "device.hbm_bandwidth",
        "device.limit",
        "link.bandwidth",
        "link.latency",
        "network.bandwidth",
        "network.latency",
    ] {
        let mut more = topology.clone();
        // Machines without a network have no such figure.
        if change(&mut more, figure, To::Times(1.1)).is_ok() {
            out.push((figure, (seconds(&more)? / base - 1.0) / 0.1));
        }
    }
    out.sort_by(|a, b| a.1.total_cmp(&b.1));
    Ok(out)
}
