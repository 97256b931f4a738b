//! Where the energy of replicas is read, and what is seen there.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::units::Milliwatts;

/// Longest text of a source.
const SOURCE_BYTES_MAX: usize = 500;
/// GPUs of one replica.
const GPUS_MAX: usize = 64;

/// Meters of an endpoint's replicas, and what tokens weigh when requests share what they show.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Metering {
    /// The meter of each replica, in their order: `nvml:UUID,UUID` (GPUs of the server's host), `rapl` (its processors),
    /// `file:///PATH#SERIES`, `http://HOST:PORT/metrics#SERIES` (text as Prometheus reads it). Empty where none has one.
    #[cfg_attr(feature = "schema", schema(value_type = Vec<String>))]
    pub sources: Vec<PowerSource>,
    /// What a computed prompt token weighs; absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefill_weight: Option<u32>,
    /// What a generated token weighs; absent means 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_weight: Option<u32>,
}

impl Metering {
    /// Whether nothing is metered and nothing weighed otherwise than usual.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A source of energy or power readings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PowerSource {
    /// Energy counters of GPUs, by UUID.
    Nvml(Vec<String>),
    /// Energy counters of the host's processors.
    Rapl,
    /// A series in a file.
    File {
        /// Its absolute path.
        path: String,
        /// Which series.
        series: String,
    },
    /// A series at an address.
    Metrics {
        /// The address.
        url: String,
        /// Which series.
        series: String,
    },
}

/// Why a text is no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadPowerSource;

impl fmt::Display for BadPowerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a meter is `nvml:UUID,UUID`, `rapl`, `file:///PATH#SERIES` or `http://HOST:PORT/metrics#SERIES`, where \
             SERIES is a name such as `replica_energy_joules_total` or `DCGM_FI_DEV_POWER_USAGE{gpu=\"0\"}`",
        )
    }
}

impl std::error::Error for BadPowerSource {}

impl FromStr for PowerSource {
    type Err = BadPowerSource;

    fn from_str(text: &str) -> Result<Self, BadPowerSource> {
        if text.len() > SOURCE_BYTES_MAX || text.chars().any(char::is_control) {
            return Err(BadPowerSource);
        }
        if text == "rapl" {
            return Ok(Self::Rapl);
        }
        if let Some(gpus) = text.strip_prefix("nvml:") {
            let gpus: Vec<String> = gpus.split(',').map(str::to_owned).collect();
            let is_good = gpus.len() <= GPUS_MAX && gpus.iter().all(|gpu| !gpu.is_empty());
            return if is_good { Ok(Self::Nvml(gpus)) } else { Err(BadPowerSource) };
        }
        let (place, series) = text.split_once('#').filter(|(_, series)| !series.is_empty()).ok_or(BadPowerSource)?;
        let series = series.to_owned();
        if let Some(path) = place.strip_prefix("file://") {
            let is_good = path.starts_with('/') && path.len() > 1;
            return if is_good { Ok(Self::File { path: path.to_owned(), series }) } else { Err(BadPowerSource) };
        }
        let host = place.strip_prefix("http://").or_else(|| place.strip_prefix("https://"));
        match host.and_then(|rest| rest.split('/').next()) {
            Some(host) if !host.is_empty() && !host.contains('@') => {
                Ok(Self::Metrics { url: place.to_owned(), series })
            }
            Some(_) | None => Err(BadPowerSource),
        }
    }
}

impl PowerSource {
    /// Whether it reads counters of the server's own host, which the host's own readings have too.
    pub fn is_of_this_host(&self) -> bool {
        match self {
            Self::Nvml(_) | Self::Rapl => true,
            Self::File { .. } | Self::Metrics { .. } => false,
        }
    }

    /// A meter that both would read: its energy would be booked twice.
    pub fn shared_with(&self, other: &Self) -> Option<String> {
        match (self, other) {
            (Self::Nvml(ours), Self::Nvml(theirs)) => {
                ours.iter().find(|gpu| theirs.contains(gpu)).map(|gpu| format!("nvml:{gpu}"))
            }
            (ours, theirs) => (ours == theirs).then(|| ours.to_string()),
        }
    }
}

impl fmt::Display for PowerSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nvml(gpus) => write!(f, "nvml:{}", gpus.join(",")),
            Self::Rapl => f.write_str("rapl"),
            Self::File { path, series } => write!(f, "file://{path}#{series}"),
            Self::Metrics { url, series } => write!(f, "{url}#{series}"),
        }
    }
}

impl TryFrom<String> for PowerSource {
    type Error = BadPowerSource;

    fn try_from(text: String) -> Result<Self, BadPowerSource> {
        text.parse()
    }
}

impl From<PowerSource> for String {
    fn from(source: PowerSource) -> Self {
        source.to_string()
    }
}

/// What a source shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shows {
    /// Energy since some moment.
    Counter {
        /// The counter.
        microjoules: u64,
        /// The value after which it starts again from 0, where it does.
        range: Option<u64>,
    },
    /// Power at this moment.
    Power(Milliwatts),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_back_as_it_is_written() {
        for text in [
            "rapl",
            "nvml:GPU-1",
            "nvml:GPU-1,GPU-2",
            "file:///run/meter#energy_joules_total",
            "http://10.0.0.7:9400/metrics#DCGM_FI_DEV_POWER_USAGE{gpu=\"0\"}",
        ] {
            let source: PowerSource = text.parse().expect(text);
            assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for text in [
            "",
            "nvml:",
            "nvml:a,",
            "rapl:0",
            "file://run#x",
            "file:///run",
            "http://#x",
            "http://u@h/m#x",
            "ftp://h#x",
        ] {
            assert_eq!(text.parse::<PowerSource>(), Err(BadPowerSource), "{text}");
        }
    }

    #[test]
    fn one_meter_in_two_sources_is_found() {
        let shared = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| text.parse::<PowerSource>().expect(text));
            a.shared_with(&b)
        };
        assert_eq!(shared("nvml:a,b", "nvml:c,b").as_deref(), Some("nvml:b"));
        assert_eq!(shared("nvml:a", "nvml:b"), None);
        assert_eq!(shared("rapl", "rapl").as_deref(), Some("rapl"));
        assert_eq!(shared("rapl", "nvml:a"), None);
        assert_eq!(shared("file:///m#x", "file:///m#y"), None);
        assert_eq!(shared("file:///m#x", "file:///m#x").as_deref(), Some("file:///m#x"));
    }
}
