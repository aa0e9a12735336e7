//! The date, for templates that tell the model what day it is.

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A moment, in the time of the machine's place where that is known, else in UTC.
pub struct Moment {
    year: i64,
    month: usize,
    day: i64,
    /// Days since January 1, and 0 for Sunday.
    of_year: i64,
    weekday: usize,
    seconds: i64,
    micros: u32,
}

#[cfg(not(target_arch = "wasm32"))]
pub fn now() -> Moment {
    let now = jiff::ZonedDateTime::now();
    let local = now.timestamp().as_second() + now.offset().seconds() as i64;
    Moment::new(local, (now.timestamp().subsec_nanosecond().max(0) / 1000) as u32)
}

#[cfg(target_arch = "wasm32")]
pub fn now() -> Moment {
    let now = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH).unwrap_or_default();
    Moment::new(now.as_secs() as i64, now.subsec_micros())
}

impl Moment {
    /// From seconds since 1970, by the rules of the Gregorian calendar.
    pub fn new(seconds: i64, micros: u32) -> Moment {
        let days = seconds.div_euclid(86_400);
        // Years from March on: the day that some years have more is then the last.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let from_march = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month + 2) / 5 + 1;
        let month = (month + 2) % 12;
        let year = era * 400 + year_of_era + (month < 2) as i64;
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let of_year = if month < 2 { from_march - 306 } else { from_march + 59 + leap as i64 };
        let weekday = (days + 4).rem_euclid(7) as usize;
        Moment { year, month: month as usize, day, of_year, weekday, seconds: seconds.rem_euclid(86_400), micros }
    }

    /// As C's `strftime` writes it in English; what it does not know stays as it is.
    pub fn format(&self, pattern: &str) -> String {
        let mut out = String::new();
        let mut chars = pattern.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut rest = chars.clone();
            let plain = rest.as_str().starts_with('-');
            if plain {
                rest.next();
            }
            match rest.next().and_then(|c| self.part(c, plain)) {
                Some(text) => {
                    out.push_str(&text);
                    chars = rest;
                }
                None => out.push('%'),
            }
        }
        out
    }

    fn part(&self, letter: char, plain: bool) -> Option<String> {
        let (hour, minute, second) = (self.seconds / 3600, self.seconds / 60 % 60, self.seconds % 60);
        let hour12 = if hour % 12 == 0 { 12 } else { hour % 12 };
        let number = |n: i64, width: usize| if plain { n.to_string() } else { format!("{n:0width$}") };
        let weekday = self.weekday as i64;
        Some(match letter {
            'a' => DAYS[self.weekday][..3].into(),
            'A' => DAYS[self.weekday].into(),
            'b' | 'h' => MONTHS[self.month][..3].into(),
            'B' => MONTHS[self.month].into(),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'd' => number(self.day, 2),
            'D' | 'x' => self.format("%m/%d/%y"),
            'e' => format!("{:2}", self.day),
            'f' => format!("{:06}", self.micros),
            'F' => self.format("%Y-%m-%d"),
            'H' => number(hour, 2),
            'I' => number(hour12, 2),
            'j' => number(self.of_year + 1, 3),
            'm' => number(self.month as i64 + 1, 2),
            'M' => number(minute, 2),
            'n' => "\n".into(),
            'p' => if hour < 12 { "AM" } else { "PM" }.into(),
            'R' => self.format("%H:%M"),
            'S' => number(second, 2),
            't' => "\t".into(),
            'T' | 'X' => self.format("%H:%M:%S"),
            'u' => (if weekday == 0 { 7 } else { weekday }).to_string(),
            'U' => number((self.of_year + 7 - weekday) / 7, 2),
            'w' => weekday.to_string(),
            'W' => number((self.of_year + 7 - (weekday + 6) % 7) / 7, 2),
            'y' => number(self.year.rem_euclid(100), 2),
            'Y' => number(self.year, 4),
            'Z' | 'z' => String::new(),
            '%' => "%".into(),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Moment;

    /// Of Python's `datetime.fromtimestamp(t, timezone.utc).strftime`.
    #[test]
    fn dates_are_pythons() {
        let all = "%Y-%m-%d %H:%M:%S %j %a %A %b %B %p %I %U %W %w %y %-d %-m";
        let cases = [
            (0, "1970-01-01 00:00:00 001 Thu Thursday Jan January AM 12 00 00 4 70 1 1"),
            (951_827_696, "2000-02-29 12:34:56 060 Tue Tuesday Feb February PM 12 09 09 2 00 29 2"),
            (1_709_251_199, "2024-02-29 23:59:59 060 Thu Thursday Feb February PM 11 08 09 4 24 29 2"),
            (4_102_444_800, "2100-01-01 00:00:00 001 Fri Friday Jan January AM 12 00 00 5 00 1 1"),
            (1_735_603_200, "2024-12-31 00:00:00 366 Tue Tuesday Dec December AM 12 52 53 2 24 31 12"),
        ];
        for (seconds, want) in cases {
            assert_eq!(Moment::new(seconds, 0).format(all), want);
        }
        assert_eq!(Moment::new(0, 0).format("100%% %Q %"), "100% %Q %");
    }
}
