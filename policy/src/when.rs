//! When a rule holds: until it expires, and within hours of the week. All in UTC; the clock is always an argument.

use crate::error::ParseError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Seconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

const DAY_S: i64 = 86_400;
const WEEK_S: i64 = 7 * DAY_S;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Timestamp {
    /// Now, by this host's clock.
    pub fn now() -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp(since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX)))
    }

    /// A TOML date and time; one without an offset is UTC, one without a time is midnight.
    pub(crate) fn of(datetime: &toml::value::Datetime) -> Result<Timestamp, ParseError> {
        let date = datetime.date.ok_or_else(|| ParseError::new("it has no date"))?;
        let days = days_before(i64::from(date.year), i64::from(date.month), i64::from(date.day));
        let seconds = datetime.time.map_or(0, |time| {
            i64::from(time.hour) * 3600 + i64::from(time.minute) * 60 + i64::from(time.second)
        });
        let offset_s = match datetime.offset {
            Some(toml::value::Offset::Custom { minutes }) => i64::from(minutes) * 60,
            _ => 0,
        };
        Ok(Timestamp(days * DAY_S + seconds - offset_s))
    }

    /// Seconds since Monday 00:00 UTC.
    fn second_of_week(self) -> i64 {
        // 1970-01-01 was a Thursday.
        (self.0 + 3 * DAY_S).rem_euclid(WEEK_S)
    }

    fn civil(self) -> (i64, i64, i64) {
        // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
        let z = self.0.div_euclid(DAY_S) + 719_468;
        let era = z.div_euclid(146_097);
        let doe = z.rem_euclid(146_097);
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        (yoe + era * 400 + i64::from(month <= 2), month, doy - (153 * mp + 2) / 5 + 1)
    }
}

/// Days from 1970-01-01 to a date; the inverse of [`Timestamp::civil`].
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let yoe = year.rem_euclid(400);
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

impl fmt::Display for Timestamp {
    /// `2027-01-31 23:59:59`, which is also how nft reads times when its zone is UTC.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        let second = self.0.rem_euclid(DAY_S);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

/// Hours of some days of the week: `mon-fri 08:00-18:00`, `sat,sun`, `22:00-06:00`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    days: [bool; 7],
    from_s: i64,
    to_s: i64,
}

impl Hours {
    /// The windows of the week, as seconds since Monday 00:00; one that passes Sunday's midnight goes on past the week's end.
    fn windows(&self) -> impl Iterator<Item = (i64, i64)> {
        let length_s =
            if self.to_s > self.from_s { self.to_s - self.from_s } else { self.to_s + DAY_S - self.from_s };
        let from_s = self.from_s;
        (0i64..).zip(self.days).filter(|(_, is_on)| *is_on).map(move |(day, _)| {
            let start = day * DAY_S + from_s;
            (start, start + length_s)
        })
    }

    /// The window that is open at `at`, or else the next one.
    fn window(&self, at: Timestamp) -> Option<(Timestamp, Timestamp)> {
        let now = at.second_of_week();
        let week = at.0 - now;
        let around = [-WEEK_S, 0, WEEK_S];
        let all = self.windows().flat_map(|(start, end)| around.map(|shift| (start + shift, end + shift)));
        let next = all.filter(|(_, end)| *end > now).min()?;
        Some((Timestamp(week + next.0), Timestamp(week + next.1)))
    }
}

impl FromStr for Hours {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Hours, ParseError> {
        let mut hours = Hours { days: [true; 7], from_s: 0, to_s: DAY_S };
        let mut parts: Vec<&str> = text.split_whitespace().collect();
        if let Some(time) = parts.pop_if(|part| part.contains(':')) {
            let (from, to) =
                time.split_once('-').ok_or_else(|| ParseError::new("hours are `08:00-18:00`"))?;
            (hours.from_s, hours.to_s) = (time_of_day(from)?, time_of_day(to)?);
            if hours.from_s == hours.to_s || hours.from_s == DAY_S {
                return Err(ParseError::new("the hours are empty"));
            }
        }
        match parts.as_slice() {
            [] if text.trim().is_empty() => return Err(ParseError::new("it is empty")),
            [] => {}
            [days] => hours.days = days_of_week(days)?,
            _ => return Err(ParseError::new("it is `mon-fri 08:00-18:00`: days, then hours")),
        }
        Ok(hours)
    }
}

fn time_of_day(text: &str) -> Result<i64, ParseError> {
    let wrong = || ParseError::new(format!("`{text}` is no time of day from 00:00 to 24:00"));
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let number = |text: &str| text.parse::<u8>().ok().filter(|_| text.len() == 2).map(i64::from);
    let (hour, minute) = (number(hour).ok_or_else(wrong)?, number(minute).ok_or_else(wrong)?);
    let seconds = hour * 3600 + minute * 60;
    if minute < 60 && seconds <= DAY_S { Ok(seconds) } else { Err(wrong()) }
}

fn days_of_week(text: &str) -> Result<[bool; 7], ParseError> {
    let mut days = [false; 7];
    let index = |name: &str| {
        DAYS.iter().position(|day| *day == name).ok_or_else(|| {
            let hint = crate::suggest::hint(name, DAYS);
            ParseError::new(format!("`{name}` is no day{hint}; days are {}", DAYS.join(", ")))
        })
    };
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (index(first)?, index(last)?);
        days[last] = true;
        while day != last {
            days[day] = true;
            day = (day + 1) % 7;
        }
    }
    Ok(days)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days: Vec<&str> = DAYS.iter().zip(self.days).filter(|(_, on)| *on).map(|(day, _)| *day).collect();
        let time = |s: i64| format!("{:02}:{:02}", s / 3600, s / 60 % 60);
        write!(f, "{} {}-{}", days.join(","), time(self.from_s), time(self.to_s))
    }
}

impl TryFrom<String> for Hours {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Hours, ParseError> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> String {
        hours.to_string()
    }
}

/// When a rule holds.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Schedule {
    /// Until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Within one of these; always where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<Hours>,
}

/// Why a rule does not hold at a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Closed {
    /// It has expired.
    Expired,
    /// Its hours are others.
    OutsideHours,
}

impl Schedule {
    /// Whether the rule holds at `at`.
    pub fn check(&self, at: Timestamp) -> Result<(), Closed> {
        if self.expires.is_some_and(|end| at >= end) {
            return Err(Closed::Expired);
        }
        let is_open = |hours: &Hours| hours.window(at).is_some_and(|(start, _)| start <= at);
        if self.hours.is_empty() || self.hours.iter().any(is_open) {
            Ok(())
        } else {
            Err(Closed::OutsideHours)
        }
    }

    /// Whether it always holds.
    pub fn is_always(&self) -> bool {
        self.expires.is_none() && self.hours.is_empty()
    }

    /// The stretch of time, not before `at`, in which the rule holds next: from, and until. None once it has expired.
    pub fn next_window(&self, at: Timestamp) -> Option<(Option<Timestamp>, Option<Timestamp>)> {
        if self.check(at) == Err(Closed::Expired) {
            return None;
        }
        let window = self.hours.iter().filter_map(|hours| hours.window(at)).min();
        let (start, end) = window.map_or((None, None), |(start, end)| (Some(start), Some(end)));
        if start.zip(self.expires).is_some_and(|(start, expires)| start >= expires) {
            return None;
        }
        let end = end.into_iter().chain(self.expires).min();
        Some((start.filter(|start| *start > at), end))
    }
}

/// At most so many new connections: `10/second`, `100/minute burst 20`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// How many.
    pub count: u32,
    /// In which time.
    pub per: Per,
    /// How many more at once.
    pub burst: u32,
}

/// A unit of time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Per {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
}

impl Per {
    const ALL: [Per; 4] = [Per::Second, Per::Minute, Per::Hour, Per::Day];

    /// Its name, as nft has it too.
    pub fn name(self) -> &'static str {
        match self {
            Per::Second => "second",
            Per::Minute => "minute",
            Per::Hour => "hour",
            Per::Day => "day",
        }
    }
}

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Rate, ParseError> {
        let wrong = || ParseError::new("it is `10/second` or `10/minute burst 20`");
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|n| (1..=1_000_000).contains(n)).ok_or_else(wrong);
        let parts: Vec<&str> = text.split_whitespace().collect();
        let (rate, burst) = match parts.as_slice() {
            [rate] => (rate, 5),
            [rate, "burst", burst] => (rate, number(burst)?),
            _ => return Err(wrong()),
        };
        let (count, per) = rate.split_once('/').ok_or_else(wrong)?;
        let per = Per::ALL.into_iter().find(|unit| unit.name() == per).ok_or_else(wrong)?;
        Ok(Rate { count: number(count)?, per, burst })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} burst {}", self.count, self.per.name(), self.burst)
    }
}

impl TryFrom<String> for Rate {
    type Error = ParseError;
    fn try_from(text: String) -> Result<Rate, ParseError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> String {
        rate.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::of(&text.parse().unwrap()).unwrap()
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(at("1970-01-01T00:00:00Z").0, 0);
        assert_eq!(at("2000-02-29T12:00:00Z").0, 951_825_600);
        assert_eq!(at("2026-11-21T12:00:00+02:00"), at("2026-11-21T10:00:00Z"));
        for text in ["2027-01-31 23:59:59", "2024-02-29 00:00:00", "2100-03-01 06:07:08"] {
            assert_eq!(at(text).to_string(), text);
        }
    }

    #[test]
    fn hours_pass_midnight_and_the_end_of_the_week() {
        let open = |hours: &str, when: &str| {
            let schedule = Schedule { expires: None, hours: vec![hours.parse().unwrap()] };
            schedule.check(at(when)).is_ok()
        };
        // 2026-11-20 is a Friday.
        assert!(open("mon-fri 08:00-18:00", "2026-11-20T08:00:00Z"));
        assert!(!open("mon-fri 08:00-18:00", "2026-11-20T18:00:00Z"));
        assert!(!open("mon-fri 08:00-18:00", "2026-11-21T09:00:00Z"));
        assert!(
            open("sun 22:00-06:00", "2026-11-23T05:59:59Z")
                && !open("sun 22:00-06:00", "2026-11-23T06:00:00Z")
        );
        assert!(open("fri-mon", "2026-11-22T12:00:00Z") && !open("fri-mon", "2026-11-24T12:00:00Z"));
        assert!(open("00:00-24:00", "2026-11-24T12:00:00Z"));
        for wrong in
            ["", "mon-fry", "8:00-9:00", "08:00", "25:00-26:00", "08:00-08:00", "mon tue 08:00-09:00"]
        {
            assert!(wrong.parse::<Hours>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_next_window_is_the_open_one_or_the_one_to_come() {
        let schedule = Schedule {
            expires: Some(at("2026-11-23T09:00:00Z")),
            hours: vec!["mon-fri 08:00-18:00".parse().unwrap()],
        };
        assert_eq!(
            schedule.next_window(at("2026-11-20T09:00:00Z")),
            Some((None, Some(at("2026-11-20T18:00:00Z"))))
        );
        assert_eq!(
            schedule.next_window(at("2026-11-21T09:00:00Z")),
            Some((Some(at("2026-11-23T08:00:00Z")), Some(at("2026-11-23T09:00:00Z"))))
        );
        assert_eq!(schedule.next_window(at("2026-11-23T09:00:00Z")), None);
    }

    #[test]
    fn rates_read_back() {
        for text in ["10/second burst 5", "100/minute burst 20"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for wrong in ["10", "0/second", "10/fortnight", "10/second burst", "x/second"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
