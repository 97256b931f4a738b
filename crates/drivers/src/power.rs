//! Meters outside this host's own counters: a series in a file or at an address, as text that Prometheus reads.
//!
//! The unit comes from the name, as the convention wants it: `…_joules_total`, `…_millijoules`, `…_microjoules`, `…_watts`,
//! `…_milliwatts`; NVIDIA's DCGM exporter, which does not follow it, is known by name. Several series of one name are
//! added up: a replica on several GPUs.
//! Units: microjoules and milliwatts, integers; decimals are read without floats.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use galerne_model::power::Shows;
use galerne_model::units::Milliwatts;
use reqwest::Client;

/// Most of an answer that is read: an exporter of eight GPUs says some tens of kilobytes.
const TEXT_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Reads series over one connection pool.
#[derive(Debug, Clone)]
pub struct SeriesReader {
    client: Client,
}

/// Why a series shows nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NoSeries(String);

impl SeriesReader {
    /// A reader that waits at most `limit` for an answer.
    pub fn new(limit: Duration) -> Result<Self, reqwest::Error> {
        crate::tls::install_provider();
        let redirect = reqwest::redirect::Policy::none();
        let client = Client::builder().redirect(redirect).timeout(limit).connect_timeout(limit).no_proxy().build()?;
        Ok(Self { client })
    }

    /// What a series at an address shows now.
    pub async fn at_address(&self, url: &str, series: &str) -> Result<Shows, NoSeries> {
        let failed = |error: reqwest::Error| NoSeries(format!("`{url}` does not answer: {}", error.without_url()));
        let mut response = self.client.get(url).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(NoSeries(format!("`{url}` answers with HTTP {}", response.status().as_u16())));
        }
        let mut text = Vec::new();
        while let Some(part) = response.chunk().await.map_err(failed)? {
            text.extend_from_slice(&part);
            if text.len() as u64 > TEXT_MAX_BYTES {
                return Err(NoSeries(format!("`{url}` says more than {TEXT_MAX_BYTES} bytes")));
            }
        }
        shows(&String::from_utf8_lossy(&text), series)
    }
}

/// What a series in a file shows now. Blocks.
pub fn in_file(path: &str, series: &str) -> Result<Shows, NoSeries> {
    let failed = |error: std::io::Error| NoSeries(format!("`{path}` cannot be read: {error}"));
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(TEXT_MAX_BYTES).read_to_end(&mut text).map_err(failed)?;
    shows(&String::from_utf8_lossy(&text), series)
}

/// What a unit is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// Energy, in so many microjoules.
    Energy(i128),
    /// Power, in so many milliwatts.
    Power(i128),
}

fn unit(name: &str) -> Option<Unit> {
    match name {
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" => return Some(Unit::Energy(1_000)),
        "DCGM_FI_DEV_POWER_USAGE" => return Some(Unit::Power(1_000)),
        _ => {}
    }
    let base = name.strip_suffix("_total").unwrap_or(name);
    let units = [
        ("microjoules", Unit::Energy(1)),
        ("millijoules", Unit::Energy(1_000)),
        ("kilojoules", Unit::Energy(1_000_000_000)),
        ("joules", Unit::Energy(1_000_000)),
        ("milliwatts", Unit::Power(1)),
        ("kilowatts", Unit::Power(1_000_000)),
        ("watts", Unit::Power(1_000)),
    ];
    units.into_iter().find(|(word, _)| base.rsplit('_').next() == Some(*word)).map(|(_, unit)| unit)
}

fn shows(text: &str, series: &str) -> Result<Shows, NoSeries> {
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.trim_end_matches('}')),
        None => (series, ""),
    };
    let unit = unit(name).ok_or_else(|| {
        NoSeries(format!(
            "the unit of `{name}` is not in its name: it ends in `_joules_total` or `_watts`, for example"
        ))
    })?;
    let scale = match unit {
        Unit::Energy(scale) | Unit::Power(scale) => scale,
    };
    let wanted: Vec<&str> = labels.split(',').map(str::trim).filter(|label| !label.is_empty()).collect();
    let mut sum: Option<i128> = None;
    for line in text.lines().filter_map(|line| line.strip_prefix(name)) {
        let (has, value) = match line.strip_prefix('{').and_then(|rest| rest.rsplit_once('}')) {
            Some((labels, value)) => (labels, value),
            None if line.starts_with([' ', '\t']) => ("", line),
            // A longer name.
            None => continue,
        };
        if !wanted.iter().all(|label| has.split(',').any(|one| one.trim() == *label)) {
            continue;
        }
        let number = value.split_ascii_whitespace().next().unwrap_or_default();
        let value =
            scaled(number, scale).ok_or_else(|| NoSeries(format!("`{name}` is `{number}`, which is no amount")))?;
        sum = Some(sum.unwrap_or(0).saturating_add(value));
    }
    let sum = sum.ok_or_else(|| NoSeries(format!("there is no series `{series}`")))?;
    let too_much = || NoSeries(format!("`{name}` is larger than any amount"));
    match unit {
        Unit::Energy(_) => Ok(Shows::Counter { microjoules: u64::try_from(sum).map_err(|_| too_much())?, range: None }),
        Unit::Power(_) => Ok(Shows::Power(Milliwatts(i64::try_from(sum).map_err(|_| too_much())?))),
    }
}

/// A decimal such as `12.5` or `1.25e+06`, times `scale`, rounded down. Nothing for what is negative, no number, or absurd.
fn scaled(text: &str, scale: i128) -> Option<i128> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.strip_prefix('+').unwrap_or(exponent).parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) || !(-30..=20).contains(&exponent) {
        return None;
    }
    // Seventeen digits are what a float tells.
    let fraction = &fraction[..fraction.len().min(17)];
    let digits: i128 = format!("{whole}{fraction}").parse().ok().filter(|digits: &i128| *digits < 1 << 90)?;
    let shift = exponent - i32::try_from(fraction.len()).ok()?;
    let power = 10_i128.checked_pow(shift.unsigned_abs())?;
    let product = digits.checked_mul(scale)?;
    if shift >= 0 { product.checked_mul(power) } else { Some(product / power) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP energy_joules_total x\nenergy_joules_total 12.000001\nenergy_joules_total_more 9\n\
        DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu=\"0\",UUID=\"GPU-a\"} 1.5e+03\n\
        DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu=\"1\",UUID=\"GPU-b\"} 500 1700000000\n\
        rack_power_watts{row=\"x\"} 350.25\nbroken_watts NaN\nodd_name 5\n";

    fn energy(microjoules: u64) -> Result<Shows, NoSeries> {
        Ok(Shows::Counter { microjoules, range: None })
    }

    #[test]
    fn a_series_is_read_in_its_unit_and_added_up() {
        assert_eq!(shows(TEXT, "energy_joules_total"), energy(12_000_001));
        assert_eq!(shows(TEXT, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"), energy(2_000_000));
        assert_eq!(shows(TEXT, "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu=\"1\"}"), energy(500_000));
        assert_eq!(shows(TEXT, "rack_power_watts"), Ok(Shows::Power(Milliwatts(350_250))));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        for (series, word) in [
            ("absent_joules", "there is no series"),
            ("rack_power_watts{row=\"y\"}", "there is no series"),
            ("broken_watts", "no amount"),
            ("odd_name", "unit"),
        ] {
            let error = shows(TEXT, series).expect_err(series).to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(in_file("/nowhere/at/all", "x_joules").expect_err("absent").to_string().contains("cannot be read"));
    }

    #[test]
    fn decimals_are_read_without_floats() {
        assert_eq!(scaled("9007199254.740993", 1_000_000), Some(9_007_199_254_740_993));
        assert_eq!(scaled("1.25e+06", 1_000_000), Some(1_250_000_000_000));
        assert_eq!(scaled("5e-7", 1_000_000), Some(0));
        for text in ["", "-1", "+Inf", "1e99", "1.2.3", ".5", "99999999999999999999999999999999"] {
            assert_eq!(scaled(text, 1), None, "{text}");
        }
    }
}
