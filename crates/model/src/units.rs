//! Integer units. No floats: metering, rating and the ledger add these exactly.
//!
//! Arithmetic that could leave the range of `i64` is checked (`checked_add`) or saturates where a
//! bound is meant; `+` on newtypes panics on overflow like integers do in checked builds.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Neg, Sub, SubAssign};

use serde::{Deserialize, Serialize};

macro_rules! units {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0);

            /// Sum, or nothing when it leaves the range of `i64`.
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// Difference held inside the range of `i64`.
            #[must_use]
            pub const fn saturating_sub(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            /// Sum held inside the range of `i64`.
            #[must_use]
            pub const fn saturating_add(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }
        }

        impl Add for $name {
            type Output = Self;
            fn add(self, other: Self) -> Self { Self(self.0 + other.0) }
        }
        impl Sub for $name {
            type Output = Self;
            fn sub(self, other: Self) -> Self { Self(self.0 - other.0) }
        }
        impl Neg for $name {
            type Output = Self;
            fn neg(self) -> Self { Self(-self.0) }
        }
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) { self.0 += other.0; }
        }
        impl SubAssign for $name {
            fn sub_assign(&mut self, other: Self) { self.0 -= other.0; }
        }
        impl Sum for $name {
            fn sum<I: Iterator<Item = Self>>(iter: I) -> Self { iter.fold(Self::ZERO, Add::add) }
        }
    )*};
}

units! {
    /// Millionths of a euro.
    Micros;
    /// Millionths of a `Micros` (10⁻¹² €): what rounding left over.
    Picos;
    /// Tokens as the engine counts them.
    Tokens;
    /// Thousandths of a joule.
    Millijoules;
    /// Thousandths of a watt.
    Milliwatts;
    /// Millionths of a gram of CO₂ equivalent. One chat answer is a few of these (docs/decisions/0004).
    MicrogramsCo2e;
    /// Bytes.
    Bytes;
}

/// Picos in one micro.
pub const PICOS_PER_MICRO: i64 = 1_000_000;

/// Millijoules in one kilowatt-hour.
pub const MILLIJOULES_PER_KWH: i64 = 3_600_000_000;

impl Micros {
    /// Reads a decimal amount of euros such as `12.5`; at most six decimals, no exponent.
    pub fn from_euros(text: &str) -> Result<Self, BadAmount> {
        let bad = || BadAmount(text.chars().take(40).collect());
        let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let only_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || fraction.len() > 6 || !only_digits(whole) || !only_digits(fraction) {
            return Err(bad());
        }
        let whole: i64 = whole.parse().map_err(|_| bad())?;
        let fraction: i64 = format!("{fraction:0<6}").parse().map_err(|_| bad())?;
        let micros = whole.checked_mul(1_000_000).and_then(|w| w.checked_add(fraction)).ok_or_else(bad)?;
        Ok(Self(if negative { -micros } else { micros }))
    }

    /// Decimal euros with exactly six decimals, e.g. `0.000042`.
    pub fn euros(self) -> String {
        let sign = if self.0 < 0 { "-" } else { "" };
        let magnitude = self.0.unsigned_abs();
        format!("{sign}{}.{:06}", magnitude / 1_000_000, magnitude % 1_000_000)
    }
}

impl Millijoules {
    /// Decimal joules with exactly three decimals.
    pub fn joules(self) -> String {
        thousandths(self.0)
    }

    /// With its unit: kilowatt-hours from a thousandth of one on, joules below.
    pub fn readable(self) -> String {
        if self.0.unsigned_abs() < MILLIJOULES_PER_KWH.unsigned_abs() / 1000 {
            return format!("{} J", self.joules());
        }
        // A millionth of a kilowatt-hour is 3.6 J; rounded towards zero.
        format!("{} kWh", Micros(self.0 / (MILLIJOULES_PER_KWH / 1_000_000)).euros())
    }

    /// Reads a decimal amount of kilowatt-hours such as `0.5`; at most six decimals, no exponent.
    pub fn from_kwh(text: &str) -> Result<Self, BadDecimal> {
        decimal(text)?.checked_mul(MILLIJOULES_PER_KWH / 1_000_000).map(Self).ok_or_else(|| BadDecimal::of(text))
    }
}

impl MicrogramsCo2e {
    /// Decimal grams with exactly six decimals.
    pub fn grams(self) -> String {
        Micros(self.0).euros()
    }

    /// Reads a decimal amount of grams such as `12.5`; at most six decimals, no exponent.
    pub fn from_grams(text: &str) -> Result<Self, BadDecimal> {
        decimal(text).map(Self)
    }
}

/// Millionths of what is written.
fn decimal(text: &str) -> Result<i64, BadDecimal> {
    Micros::from_euros(text).map(|micros| micros.0).map_err(|_| BadDecimal::of(text))
}

/// A text that is not a decimal number.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a number that can be kept; write digits with at most six decimals, such as `12.5`")]
pub struct BadDecimal(pub String);

impl BadDecimal {
    fn of(text: &str) -> Self {
        Self(text.chars().take(40).collect())
    }
}

fn thousandths(value: i64) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let magnitude = value.unsigned_abs();
    format!("{sign}{}.{:03}", magnitude / 1000, magnitude % 1000)
}

/// A text that is not an amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an amount in euros; write digits with at most six decimals, such as `12.50`")]
pub struct BadAmount(pub String);

/// Money as the API speaks it: a decimal string and its currency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// Decimal amount with at most six decimals, e.g. `"12.500000"`.
    pub amount: String,
    /// ISO 4217 code; `EUR` is the only one kept today.
    pub currency: Currency,
}

/// Currencies the ledger keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub enum Currency {
    /// Euro.
    #[default]
    #[serde(rename = "EUR")]
    Eur,
}

impl Money {
    /// Euros from micros.
    pub fn eur(micros: Micros) -> Self {
        Self { amount: micros.euros(), currency: Currency::Eur }
    }

    /// The amount in micros.
    pub fn micros(&self) -> Result<Micros, BadAmount> {
        Micros::from_euros(&self.amount)
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} €", self.amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn euros_read_back_exactly() {
        for text in ["0.000001", "-3.140000", "12540.000000"] {
            let micros = Micros::from_euros(text).expect("written with six decimals");
            assert_eq!(micros.euros(), text);
        }
        assert_eq!(Micros::from_euros("12.5"), Ok(Micros(12_500_000)));
    }

    #[test]
    fn energy_is_read_in_kilowatt_hours_and_shown_in_the_unit_that_fits() {
        assert_eq!(Millijoules::from_kwh("5"), Ok(Millijoules(18_000_000_000)));
        assert_eq!(Millijoules::from_kwh("5").map(Millijoules::readable), Ok("5.000000 kWh".to_owned()));
        assert_eq!(Millijoules(3_599_999).readable(), "3599.999 J");
        assert_eq!(Millijoules(3_600_000).readable(), "0.001000 kWh");
        assert_eq!(MicrogramsCo2e::from_grams("12.5"), Ok(MicrogramsCo2e(12_500_000)));
        for text in ["", "1e3", "9223372036854", "0.0000001"] {
            assert!(Millijoules::from_kwh(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn amounts_that_money_cannot_hold_are_refused() {
        for text in ["", "1.0000001", "1e3", "NaN", ".5", "1,5", "9223372036855", "--1", "1.-5"] {
            assert!(Micros::from_euros(text).is_err(), "{text} was taken");
        }
    }
}
