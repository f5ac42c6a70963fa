//! Points in time, as a person writes and reads them. Civil time is UTC.

use std::time::Duration;

use tristream_proto::domain::Timestamp;

/// Reads `2026-11-21T10:00:00Z` (also with a fraction, a blank for the T, or the date alone), milliseconds
/// or seconds since 1970, or an age such as `90s`, `5m`, `2h`, `1d`. `None` when it is none of these.
pub(super) fn parse(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        let number: u64 = text.parse().ok()?;
        // Eleven digits of seconds would be beyond the year 5138, of milliseconds before March 1973.
        return Some(Timestamp(if text.len() <= 10 { number * 1000 } else { number }));
    }
    duration(text).map(|age| now.before(age)).or_else(|| civil(text))
}

/// Reads a time span such as `90s`, `5m`, `2h` or `1d`; whole numbers only.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    let number = &text[..text.len() - 1];
    let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = if digits { number.parse().ok()? } else { return None };
    count.checked_mul(seconds).map(Duration::from_secs)
}

fn civil(text: &str) -> Option<Timestamp> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, time.strip_suffix(['Z', 'z']).unwrap_or(time)),
        None => (text, "00:00:00"),
    };
    let number = |text: &str, len: usize| {
        let good = text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
        if good { text.parse::<u64>().ok() } else { None }
    };
    let mut parts = date.split('-');
    let (year, month, day) = (
        number(parts.next()?, 4)?,
        number(parts.next()?, 2)?,
        number(parts.next()?, 2).filter(|day| *day >= 1)?,
    );
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut fields = clock.split(':');
    let (hour, minute) = (number(fields.next()?, 2)?, number(fields.next()?, 2)?);
    let second = fields.next().map_or(Some(0), |second| number(second, 2))?;
    let good_fraction =
        (1..=9).contains(&fraction.len()) && fraction.bytes().all(|b| b.is_ascii_digit());
    let rest = parts.next().is_some() || fields.next().is_some();
    if rest || !good_fraction || year < 1970 || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    if !(1..=12).contains(&month) || day > days_of(year, month) {
        return None;
    }
    let millis: u64 = format!("{fraction:0<3}")[..3].parse().ok()?;
    let days: u64 = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum::<u64>()
        + (1..month).map(|m| days_of(year, m)).sum::<u64>()
        + (day - 1);
    Some(Timestamp((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millis))
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of(year: u64, month: u64) -> u64 {
    match month {
        2 if leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `2026-11-21T10:00:00.123Z`.
pub(super) fn show(time: Timestamp) -> String {
    let (seconds, millis) = (time.seconds(), time.0 % 1000);
    let (mut days, of_day) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    // Bounded: nobody reads a date past the year 9999.
    while year < 9999 {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let mut month = 1;
    while month < 12 && days >= days_of(year, month) {
        days -= days_of(year, month);
        month += 1;
    }
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = Timestamp(1_800_000_000_000);
        for (text, millis) in [
            ("2026-11-21T10:00:00Z", 1_795_255_200_000),
            ("2026-11-21T10:00:00.123Z", 1_795_255_200_123),
            ("2026-11-21T10:00:00.1234567", 1_795_255_200_123),
            ("2026-11-21 10:00", 1_795_255_200_000),
            ("2026-11-21", 1_795_219_200_000),
            ("2024-02-29", 1_709_164_800_000),
            ("1795255200", 1_795_255_200_000),
            ("1795255200123", 1_795_255_200_123),
            ("90s", 1_799_999_910_000),
            ("5m", 1_799_999_700_000),
            ("2h", 1_799_992_800_000),
            ("1d", 1_799_913_600_000),
        ] {
            assert_eq!(parse(text, now), Some(Timestamp(millis)), "{text}");
        }
        for bad in [
            "",
            "m",
            "latest",
            "-5m",
            "2026-02-29",
            "2026-13-01",
            "2026-00-01",
            "2026-01-00",
            "2026-1-1",
            "2026-11-21T24:00:00Z",
            "2026-11-21T10:00:00.Z",
            "2026-11-21T10",
            "2026-11-21T10:00:00:00",
            "1969-12-31",
            "é",
            "1é",
            "99999999999999999999s",
        ] {
            assert_eq!(parse(bad, now), None, "{bad}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read() {
        for millis in [0, 951_782_400_000, 1_709_164_800_001, 1_795_255_200_123, 4_102_444_799_999]
        {
            let text = show(Timestamp(millis));
            assert_eq!(parse(&text, Timestamp(0)), Some(Timestamp(millis)), "{text}");
        }
        assert_eq!(show(Timestamp(1_795_255_200_123)), "2026-11-21T10:00:00.123Z");
    }
}
