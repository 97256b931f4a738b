//! Decimal grams to whole milligrams, without floats.

/// More than any power station: 5 kg per kWh.
const MILLIGRAMS_MAX: i64 = 5_000_000;

/// `35.34` → 35 340; the fourth decimal is rounded half up. Nothing for a text that is no sensible amount.
pub(super) fn milligrams(grams: &str) -> Option<i64> {
    let grams = grams.trim();
    let (whole, fraction) = grams.split_once('.').unwrap_or((grams, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 9 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let digit = |at: usize| fraction.as_bytes().get(at).map_or(0, |byte| i64::from(byte - b'0'));
    let rounding = i64::from(digit(3) >= 5);
    let total = whole.parse::<i64>().ok()? * 1_000 + digit(0) * 100 + digit(1) * 10 + digit(2) + rounding;
    (total <= MILLIGRAMS_MAX).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::milligrams;

    #[test]
    fn grams_become_milligrams_exactly() {
        let cases =
            [("35.34", 35_340), ("0", 0), ("21.7", 21_700), ("1.2345", 1_235), ("1.2344", 1_234), ("7.", 7_000)];
        for (text, expected) in cases {
            assert_eq!(milligrams(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "-1", "1e3", "NaN", "1,5", ".5", "99999999999999999999", "5000.001"] {
            assert_eq!(milligrams(text), None, "{text}");
        }
    }
}
