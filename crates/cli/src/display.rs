//! Numbers with their units, as people read them. Integers in, text out; no floats for money, energy or carbon.

use galerne_model::units::{Bytes, MILLIJOULES_PER_KWH, MicrogramsCo2e, Micros, Millijoules, Picos, Tokens};
use jiff::{SignedDuration, Timestamp};

/// Digits in groups of three.
pub(crate) fn count(value: i64) -> String {
    let digits = value.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 project`, `2 projects`.
pub(crate) fn counted(number: i64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Tokens in groups of three.
pub(crate) fn tokens(tokens: Tokens) -> String {
    count(tokens.0)
}

/// Euros with six decimals, and with twelve where rounding down left something and nothing else is there.
pub(crate) fn euros(micros: Micros, picos: Picos) -> String {
    // One short answer of a small model costs less than a micro: showing 0 would be false.
    let total = i128::from(micros.0) * 1_000_000 + i128::from(picos.0);
    let magnitude = total.unsigned_abs();
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (magnitude / 1_000_000_000_000, magnitude % 1_000_000_000_000);
    let digits = format!("{fraction:012}");
    let keep = if whole == 0 && fraction < 1_000_000 && fraction != 0 { 12 } else { 6 };
    let digits = if keep == 12 { digits.trim_end_matches('0') } else { &digits[..6] };
    format!("{sign}{whole}.{digits}")
}

/// The unit energies of one column are shown in: the largest that keeps the largest above one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EnergyUnit {
    Joules,
    KilowattHours,
}

impl EnergyUnit {
    pub(crate) fn for_largest(energy: Millijoules) -> Self {
        if energy.0.abs() >= MILLIJOULES_PER_KWH { Self::KilowattHours } else { Self::Joules }
    }

    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::Joules => "J",
            Self::KilowattHours => "kWh",
        }
    }

    pub(crate) fn show(self, energy: Millijoules) -> String {
        match self {
            Self::Joules => energy.joules(),
            // A millionth of a kilowatt-hour is 3.6 J; rounded half away from zero.
            Self::KilowattHours => {
                let scaled = i128::from(energy.0) * 1_000_000;
                let half = i128::from(MILLIJOULES_PER_KWH / 2) * scaled.signum();
                let micro_kwh = (scaled + half) / i128::from(MILLIJOULES_PER_KWH);
                Micros(i64::try_from(micro_kwh).unwrap_or(i64::MAX)).euros()
            }
        }
    }
}

/// Energy with its unit.
pub(crate) fn energy(energy: Millijoules) -> String {
    let unit = EnergyUnit::for_largest(energy);
    format!("{} {}", unit.show(energy), unit.head())
}

/// Carbon with its unit.
pub(crate) fn carbon(carbon: MicrogramsCo2e) -> String {
    format!("{} g CO₂e", carbon.grams())
}

/// Bytes in binary units with one decimal.
pub(crate) fn bytes(bytes: Bytes) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes.0.unsigned_abs() < 1024 {
        return format!("{} B", bytes.0);
    }
    let mut tenths = i128::from(bytes.0) * 10 / 1024;
    let mut unit = 0;
    while tenths.unsigned_abs() >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, (tenths % 10).abs(), UNITS[unit])
}

/// Parameters of a model: `134.5 M`, `7.2 B`.
pub(crate) fn parameters(count: i64) -> String {
    match count {
        1_000_000_000.. => format!("{}.{} B", count / 1_000_000_000, count / 100_000_000 % 10),
        1_000_000.. => format!("{}.{} M", count / 1_000_000, count / 100_000 % 10),
        _ => self::count(count),
    }
}

/// Thousandths as per cent with one decimal.
pub(crate) fn thousandths(thousandths: u32) -> String {
    format!("{}.{} %", thousandths / 10, thousandths % 10)
}

/// A duration as in `4 min`, to one unit.
pub(crate) fn duration(duration: SignedDuration) -> String {
    let seconds = duration.as_secs().abs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How long something took, with one decimal.
pub(crate) fn elapsed(elapsed: std::time::Duration) -> String {
    let tenths = elapsed.as_millis() / 100;
    if tenths < 600 {
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        format!("{} min {:02} s", tenths / 600, tenths / 10 % 60)
    }
}

/// An instant to the second, in UTC, with its zone.
pub(crate) fn instant(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// What stands where there is nothing.
pub(crate) fn dash() -> String {
    "-".to_owned()
}

/// The word an enum has in JSON: the same inside, outside and on the screen.
pub(crate) fn word<T: serde::Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word.replace('_', " "),
        Ok(other) => other.to_string(),
        Err(_) => dash(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!([0, 999, 1_000, -12_540, 1_204_331].map(count), ["0", "999", "1,000", "-12,540", "1,204,331"]);
    }

    #[test]
    fn a_charge_below_a_micro_is_not_shown_as_nothing() {
        assert_eq!(euros(Micros(0), Picos(450_000)), "0.00000045");
        assert_eq!(euros(Micros(3), Picos(450_000)), "0.000003");
        assert_eq!(euros(Micros(-3), Picos(0)), "-0.000003");
        assert_eq!(euros(Micros(0), Picos(0)), "0.000000");
        assert_eq!(euros(Micros(12_500_000), Picos(7)), "12.500000");
    }

    #[test]
    fn energy_changes_its_unit_at_a_kilowatt_hour() {
        assert_eq!(energy(Millijoules(12_345)), "12.345 J");
        assert_eq!(energy(Millijoules(MILLIJOULES_PER_KWH * 3 / 2)), "1.500000 kWh");
        assert_eq!(EnergyUnit::KilowattHours.show(Millijoules(-1_800)), "-0.000001");
    }

    #[test]
    fn bytes_are_shown_in_binary_units() {
        assert_eq!(
            [0, 1023, 1024, 1536, 91_737_088].map(|n| bytes(Bytes(n))),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "87.4 MiB"]
        );
    }

    #[test]
    fn durations_take_one_unit() {
        assert_eq!(duration(SignedDuration::from_secs(59)), "59 s");
        assert_eq!(duration(SignedDuration::from_secs(7_260)), "2 h");
        assert_eq!(elapsed(std::time::Duration::from_millis(1_249)), "1.2 s");
        assert_eq!(elapsed(std::time::Duration::from_secs(125)), "2 min 05 s");
    }
}
