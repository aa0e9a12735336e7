//! Quantities with units: types in Rust, text in files (`3.35TB/s`, `80GiB`, `1.8us`).

use super::{Error, Result};
use std::fmt;

/// A family of units and what one of each is worth in the base unit.
struct Units {
    /// What it measures, for messages.
    what: &'static str,
    example: &'static str,
    units: &'static [(&'static str, f64)],
}

const BYTES: Units = Units {
    what: "an amount of bytes",
    example: "80GiB",
    units: &[
        ("B", 1.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("PB", 1e15),
        ("KiB", 1024.0),
        ("MiB", 1048576.0),
        ("GiB", 1073741824.0),
        ("TiB", 1099511627776.0),
    ],
};
const BYTE_RATE: Units = Units {
    what: "bytes per second",
    example: "3.35TB/s",
    units: &[
        ("B/s", 1.0),
        ("kB/s", 1e3),
        ("MB/s", 1e6),
        ("GB/s", 1e9),
        ("TB/s", 1e12),
        ("MiB/s", 1048576.0),
        ("GiB/s", 1073741824.0),
        ("b/s", 0.125),
        ("kb/s", 125.0),
        ("Mb/s", 0.125e6),
        ("Gb/s", 0.125e9),
        ("Tb/s", 0.125e12),
    ],
};
const TIME: Units = Units {
    what: "a time",
    example: "1.8us",
    units: &[("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("µs", 1e-6), ("ns", 1e-9), ("min", 60.0), ("h", 3600.0)],
};
const FLOP_RATE: Units = Units {
    what: "operations per second",
    example: "312TFLOP/s",
    units: &[
        ("FLOP/s", 1.0),
        ("MFLOP/s", 1e6),
        ("GFLOP/s", 1e9),
        ("TFLOP/s", 1e12),
        ("PFLOP/s", 1e15),
        ("GOP/s", 1e9),
        ("TOP/s", 1e12),
        ("POP/s", 1e15),
    ],
};
const POWER: Units =
    Units { what: "a power", example: "700W", units: &[("W", 1.0), ("mW", 1e-3), ("kW", 1e3), ("MW", 1e6)] };
const ENERGY: Units = Units {
    what: "an energy",
    example: "1.2kJ",
    units: &[
        ("J", 1.0),
        ("mJ", 1e-3),
        ("uJ", 1e-6),
        ("nJ", 1e-9),
        ("pJ", 1e-12),
        ("kJ", 1e3),
        ("MJ", 1e6),
        ("GJ", 1e9),
        ("Wh", 3600.0),
        ("kWh", 3.6e6),
        ("MWh", 3.6e9),
    ],
};
const PRICE: Units = Units { what: "a price of time", example: "2.50USD/h", units: &[("USD/h", 1.0)] };
const ALL: [&Units; 7] = [&BYTES, &BYTE_RATE, &TIME, &FLOP_RATE, &POWER, &ENERGY, &PRICE];

impl Units {
    fn read(&self, text: &str) -> Result<f64> {
        let text = text.trim();
        let end = text.char_indices().find(|(i, c)| {
            !(c.is_ascii_digit()
                || matches!(c, '.' | '-' | '+' | '_')
                || (matches!(c, 'e' | 'E') && exponent(&text[i + 1..])))
        });
        let (number, unit) = text.split_at(end.map_or(text.len(), |e| e.0));
        let (number, unit) = (number.trim().replace('_', ""), unit.trim());
        let value: f64 = number
            .parse()
            .ok()
            .filter(|v: &f64| v.is_finite())
            .ok_or_else(|| self.refuse(format!("\"{text}\" does not start with a number")))?;
        if unit.is_empty() {
            return Err(self.refuse(format!("\"{text}\" has no unit")));
        }
        if let Some((_, one)) = self.units.iter().find(|u| u.0 == unit) {
            return Ok(value * one);
        }
        if let Some(other) = ALL.iter().find(|f| f.units.iter().any(|u| u.0 == unit)) {
            return Err(self.refuse(format!("\"{text}\" is {}", other.what)));
        }
        let near = self
            .units
            .iter()
            .find(|u| u.0.eq_ignore_ascii_case(unit))
            .map_or(String::new(), |u| format!(" (did you mean {}?)", u.0));
        Err(self.refuse(format!("\"{text}\" has the unknown unit {unit}{near}")))
    }

    fn refuse(&self, what: String) -> Error {
        let units: Vec<&str> = self.units.iter().map(|u| u.0).collect();
        Error::usage(format!("{what}; expected {}, such as {} (units: {})", self.what, self.example, units.join(", ")))
    }
}

/// Whether an `e` starts an exponent rather than a unit.
fn exponent(rest: &str) -> bool {
    rest.trim_start_matches(['+', '-']).starts_with(|c: char| c.is_ascii_digit())
}

/// `12.5` rather than `12.500`, three or four digits that say something.
fn short(v: f64) -> String {
    let digits = match v.abs() {
        0.0 => 0,
        a if a >= 100.0 => 0,
        a if a >= 10.0 => 1,
        a if a >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{v:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// The largest of these units in which the value is at least 1.
fn scaled(v: f64, units: &[(&str, f64)]) -> String {
    let (name, one) = units.iter().rev().find(|u| v.abs() >= u.1 * 0.99995).unwrap_or(&units[0]);
    format!("{} {name}", short(v / one))
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $units:expr, $show:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd)]
        pub struct $name(pub f64);

        impl std::str::FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                $units.read(text).map($name)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.pad(&scaled(self.0, $show))
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                struct Text;
                impl serde::de::Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                        write!(f, "{} as text with its unit, such as \"{}\"", $units.what, $units.example)
                    }
                    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<$name, E> {
                        v.parse().map_err(E::custom)
                    }
                }
                d.deserialize_str(Text)
            }
        }
        impl std::ops::Add for $name {
            type Output = $name;
            fn add(self, o: $name) -> $name { $name(self.0 + o.0) }
        }
        impl std::ops::Sub for $name {
            type Output = $name;
            fn sub(self, o: $name) -> $name { $name(self.0 - o.0) }
        }
        impl std::ops::Mul<f64> for $name {
            type Output = $name;
            fn mul(self, by: f64) -> $name { $name(self.0 * by) }
        }
        impl std::ops::Div<f64> for $name {
            type Output = $name;
            fn div(self, by: f64) -> $name { $name(self.0 / by) }
        }
        impl std::ops::Div for $name {
            type Output = f64;
            fn div(self, by: $name) -> f64 { self.0 / by.0 }
        }
        impl std::iter::Sum for $name {
            fn sum<I: Iterator<Item = $name>>(all: I) -> $name { $name(all.map(|q| q.0).sum()) }
        }
    };
}

quantity!(
    /// An amount of memory or traffic.
    Bytes, BYTES, &[("B", 1.0), ("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("TiB", 1099511627776.0)]
);
quantity!(
    /// Bandwidth.
    BytesPerSecond, BYTE_RATE, &[("B/s", 1.0), ("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9), ("TB/s", 1e12)]
);
quantity!(
    /// A duration.
    Seconds, TIME, &[("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)]
);
quantity!(
    /// Floating-point (or integer) operations per second; a multiply-add counts as two.
    FlopsPerSecond, FLOP_RATE, &[("FLOP/s", 1.0), ("MFLOP/s", 1e6), ("GFLOP/s", 1e9), ("TFLOP/s", 1e12), ("PFLOP/s", 1e15), ("EFLOP/s", 1e18)]
);
quantity!(
    /// Power.
    Watts, POWER, &[("W", 1.0), ("kW", 1e3), ("MW", 1e6)]
);
quantity!(
    /// Energy.
    Joules, ENERGY, &[("pJ", 1e-12), ("nJ", 1e-9), ("uJ", 1e-6), ("mJ", 1e-3), ("J", 1.0), ("kJ", 1e3), ("MJ", 1e6), ("GJ", 1e9)]
);
quantity!(
    /// Money for an hour of something.
    PricePerHour, PRICE, &[("USD/h", 1.0)]
);

impl Bytes {
    /// How long they take at a rate.
    pub fn at(self, rate: BytesPerSecond) -> Seconds {
        Seconds(self.0 / rate.0)
    }
}

impl Watts {
    pub fn during(self, time: Seconds) -> Joules {
        Joules(self.0 * time.0)
    }
}

/// The middle of some figures; 0 of none.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_printed() {
        let bandwidth: BytesPerSecond = "3.35TB/s".parse().unwrap();
        assert_eq!((bandwidth.0, bandwidth.to_string()), (3.35e12, "3.35 TB/s".into()));
        assert_eq!("400Gb/s".parse::<BytesPerSecond>().unwrap(), "50 GB/s".parse().unwrap());
        assert_eq!("80GiB".parse::<Bytes>().unwrap().to_string(), "80 GiB");
        assert_eq!("1.8us".parse::<Seconds>().unwrap(), "1.8 µs".parse().unwrap());
        assert_eq!("1e3 s".parse::<Seconds>().unwrap().0, 1000.0);
        assert_eq!("312TFLOP/s".parse::<FlopsPerSecond>().unwrap().to_string(), "312 TFLOP/s");
        assert_eq!(Seconds(0.0123456).to_string(), "12.3 ms");
        assert_eq!(Bytes(1e12).at("2TB/s".parse().unwrap()), Seconds(0.5));
    }

    #[test]
    fn wrong_units_are_told_apart() {
        let all = [
            "3.35TB".parse::<BytesPerSecond>().map(|_| ()),
            "80GiB/s".parse::<Bytes>().map(|_| ()),
            "700".parse::<Watts>().map(|_| ()),
            "12parsec".parse::<Seconds>().map(|_| ()),
            "GB".parse::<Bytes>().map(|_| ()),
            "80gib".parse::<Bytes>().map(|_| ()),
            "infW".parse::<Watts>().map(|_| ()),
        ];
        let told: Vec<String> =
            all.into_iter().map(|r| r.unwrap_err().to_string().split(" (units").next().unwrap().to_string()).collect();
        insta::assert_snapshot!(told.join("\n"), @r#"
        "3.35TB" is an amount of bytes; expected bytes per second, such as 3.35TB/s
        "80GiB/s" is bytes per second; expected an amount of bytes, such as 80GiB
        "700" has no unit; expected a power, such as 700W
        "12parsec" has the unknown unit parsec; expected a time, such as 1.8us
        "GB" does not start with a number; expected an amount of bytes, such as 80GiB
        "80gib" has the unknown unit gib (did you mean GiB?); expected an amount of bytes, such as 80GiB
        "infW" does not start with a number; expected a power, such as 700W
        "#);
    }
}
