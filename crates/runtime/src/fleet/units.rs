//! Quantities with their units, as text: `5s`, `1MiB`, `10/s`.

use std::{fmt, str::FromStr, time::Duration};

use testudo_model::limits;

use super::text_value::text_value;

/// A duration such as `250ms`, `5s`, `15m`, `12h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

/// A number of bytes such as `512B`, `64KiB`, `1MiB` or `2GiB`; `KB`, `MB` and `GB` are powers of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

/// Requests per time such as `10/s`, `100/m`, `1000/h` or `5/10s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    period: Period,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidQuantity {
    /// Not a duration.
    #[error(
        "`{0}` is not a duration: write a whole number and a unit of ms, s, m, h or d, such as `30s`"
    )]
    Period(String),
    /// Not a size.
    #[error(
        "`{0}` is not a size: write a whole number and a unit of B, KiB, MiB, GiB, KB, MB or GB, such as `1MiB`"
    )]
    Size(String),
    /// Not a rate.
    #[error(
        "`{0}` is not a rate: write requests, `/` and a time, such as `10/s`, `100/m` or `5/10s`"
    )]
    Rate(String),
    /// Nothing would ever be let through.
    #[error("`{0}` lets no request through; both numbers of a rate are at least 1")]
    ZeroRate(String),
}

/// Units of time with their milliseconds, the largest first.
const TIME_UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];
/// Units of size with their bytes, the largest of each kind first.
const SIZE_UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
    ("B", 1),
];

impl Period {
    /// The duration.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// The duration in whole milliseconds.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// How long a slow client is waited for unless the fleet says otherwise.
    pub(super) const fn default_transfer_grace() -> Self {
        Self(limits::DEFAULT_BODY_GRACE)
    }

    pub(super) const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// A route's deadline unless it says otherwise.
    pub(super) const fn default_timeout() -> Self {
        Self(limits::DEFAULT_REQUEST_TIMEOUT)
    }
}

impl Size {
    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// What a client must move in a second unless the fleet says otherwise.
    pub(super) const fn default_transfer() -> Self {
        Self(limits::DEFAULT_MIN_BODY_BYTES_PER_SECOND)
    }

    /// A route's largest body unless it says otherwise.
    pub(super) const fn default_body() -> Self {
        Self(limits::DEFAULT_MAX_BODY_BYTES)
    }
}

impl Rate {
    /// Requests per [`Rate::period`], at least 1.
    pub const fn requests(self) -> u32 {
        self.requests
    }

    /// The period, at least a millisecond.
    pub const fn period(self) -> Period {
        self.period
    }
}

impl FromStr for Period {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let millis = parse_quantity(text, &TIME_UNITS)
            .ok_or_else(|| InvalidQuantity::Period(shown(text)))?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

impl FromStr for Size {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        parse_quantity(text, &SIZE_UNITS)
            .map(Self)
            .ok_or_else(|| InvalidQuantity::Size(shown(text)))
    }
}

impl FromStr for Rate {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let malformed = || InvalidQuantity::Rate(shown(text));
        let (requests, period) = text.split_once('/').ok_or_else(malformed)?;
        let requests = parse_number(requests)
            .and_then(|n| u32::try_from(n).ok())
            .ok_or_else(malformed)?;
        let period = period.trim_start();
        // `10/s` is `10/1s`.
        let counted = period.starts_with(|first: char| first.is_ascii_digit());
        let millis = match TIME_UNITS.iter().find(|(unit, _)| *unit == period) {
            Some((_, millis)) => *millis,
            None if counted => parse_quantity(period, &TIME_UNITS).ok_or_else(malformed)?,
            None => return Err(malformed()),
        };
        if requests == 0 || millis == 0 {
            return Err(InvalidQuantity::ZeroRate(shown(text)));
        }
        Ok(Self {
            requests,
            period: Period(Duration::from_millis(millis)),
        })
    }
}

impl fmt::Display for Period {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(formatter, self.millis(), &TIME_UNITS)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_quantity(formatter, self.0, &SIZE_UNITS)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TIME_UNITS
            .iter()
            .find(|(_, millis)| *millis == self.period.millis())
        {
            Some((unit, _)) => write!(formatter, "{}/{unit}", self.requests),
            None => write!(formatter, "{}/{}", self.requests, self.period),
        }
    }
}

text_value!(
    Period,
    "a duration such as `30s`",
    "^[0-9]+ *(ms|s|m|h|d)$",
    ["250ms", "5s", "15m", "12h", "7d"]
);
text_value!(
    Size,
    "a size such as `1MiB`",
    "^[0-9]+ *(B|KiB|MiB|GiB|KB|MB|GB)$",
    ["64KiB", "1MiB"]
);
text_value!(
    Rate,
    "a rate such as `10/s`",
    "^[0-9]+ */ *([0-9]+ *)?(ms|s|m|h|d)$",
    ["10/s", "100/m", "5/10s"]
);

/// A whole number and a unit, with spaces allowed in between.
fn parse_quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    parse_number(number)?.checked_mul(*factor)
}

/// Digits only: no sign, no underscore.
fn parse_number(text: &str) -> Option<u64> {
    let text = text.trim_end();
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

/// With the largest unit that divides the number.
fn write_quantity(
    formatter: &mut fmt::Formatter<'_>,
    number: u64,
    units: &[(&str, u64)],
) -> fmt::Result {
    match units
        .iter()
        .find(|(_, factor)| number != 0 && number.is_multiple_of(*factor))
    {
        Some((unit, factor)) => write!(formatter, "{}{unit}", number / factor),
        None => write!(
            formatter,
            "{number}{}",
            units.last().map_or("", |(unit, _)| unit)
        ),
    }
}

/// What an error repeats of a text.
fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quantities_are_read_with_their_unit() {
        assert_eq!(
            "250ms".parse::<Period>().unwrap().duration(),
            Duration::from_millis(250)
        );
        assert_eq!(
            "15 m".parse::<Period>().unwrap().duration(),
            Duration::from_secs(900)
        );
        assert_eq!("1MiB".parse::<Size>().unwrap().bytes(), 1_048_576);
        assert_eq!("1MB".parse::<Size>().unwrap().bytes(), 1_000_000);
        let rate: Rate = "5/10s".parse().unwrap();
        assert_eq!((rate.requests(), rate.period().millis()), (5, 10_000));
        assert_eq!("100/m".parse::<Rate>().unwrap().period().millis(), 60_000);
    }

    #[test]
    fn a_number_without_unit_and_other_guesses_are_refused() {
        for bad in [
            "",
            "5",
            "s",
            "5 sec",
            "-5s",
            "1.5s",
            "5S",
            "99999999999999999999s",
            "1_000s",
        ] {
            assert!(bad.parse::<Period>().is_err(), "{bad}");
        }
        for bad in ["", "1", "1M", "1mib", "1e3B", "18446744073709551615KiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
        for bad in ["10", "/s", "10/", "10/sec", "x/s", "10/s/s", "5000000000/s"] {
            assert!(
                matches!(bad.parse::<Rate>(), Err(InvalidQuantity::Rate(_))),
                "{bad}"
            );
        }
        assert!(matches!(
            "0/s".parse::<Rate>(),
            Err(InvalidQuantity::ZeroRate(_))
        ));
        assert!(matches!(
            "1/0s".parse::<Rate>(),
            Err(InvalidQuantity::ZeroRate(_))
        ));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back_the_same(number in any::<u32>(), requests in 1_u32.., millis in 1_u64..1_000_000_000) {
            let period = Period(Duration::from_millis(u64::from(number)));
            prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
            let size = Size(u64::from(number));
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
            let rate = Rate { requests, period: Period(Duration::from_millis(millis)) };
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = (text.parse::<Period>(), text.parse::<Size>(), text.parse::<Rate>());
        }
    }
}
