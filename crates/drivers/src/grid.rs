//! Carbon intensity of the electricity at a site: an hourly file where one covers the moment, a stated yearly mean else.
//!
//! INVARIANT: an answer has the scope that was asked for; direct and lifecycle figures are never mixed or substituted.
//! Units: milligrams CO₂e per kilowatt-hour, integers. Times are UTC; a file in local time is refused.
//! Deliberately absent: fetching from a grid operator; a file can be brought to a site that reaches nobody.

mod amount;
mod defaults;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use jiff::Timestamp;

use table::Interval;

/// What the emissions of a kilowatt-hour include.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Combustion in the power stations.
    Direct,
    /// Also fuel supply, construction, leaks.
    Lifecycle,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Lifecycle => "lifecycle",
        })
    }
}

/// The intensity of a zone at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GridSignal {
    /// Grid zone, e.g. `FR`.
    pub zone: String,
    /// Milligrams CO₂e per kilowatt-hour.
    pub mg_per_kwh: i64,
    /// What it includes.
    pub scope: Scope,
    /// Who says so.
    pub source: String,
    /// Whether it is an estimate for this moment: a yearly mean always is.
    pub is_estimated: bool,
}

impl GridSignal {
    /// Source, scope and whether it is an estimate, in words, as readings keep them.
    pub fn words(&self) -> String {
        let kind = if self.is_estimated { "estimated" } else { "as published" };
        format!("{}; {}, {kind}", self.source, self.scope)
    }
}

/// Why there is no intensity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GridError {
    /// Nothing is known of this zone in this scope.
    #[error("no {scope} carbon intensity is known for zone `{zone}`; known zones: {known}")]
    UnknownZone {
        /// The zone asked for.
        zone: String,
        /// The scope asked for.
        scope: Scope,
        /// Zones that are known in this scope.
        known: String,
    },
    /// A file cannot be read.
    #[error("the grid file cannot be used, line {line}: {what}")]
    BadFile {
        /// Line, from 1; 0 for the file as a whole.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
}

impl GridError {
    /// Public error code; each has a page in `docs/errors`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownZone { .. } | Self::BadFile { .. } => "config_invalid",
        }
    }
}

/// A yearly mean.
#[derive(Debug, Clone, PartialEq, Eq)]
struct YearlyMean {
    mg_per_kwh: i64,
    source: String,
}

/// All that is known of grids.
#[derive(Debug, Clone, Default)]
pub struct Grid {
    means: BTreeMap<(Scope, String), YearlyMean>,
    series: BTreeMap<(Scope, String), Vec<Interval>>,
}

impl Grid {
    /// The yearly means that are compiled in (`catalogue/grid-defaults.toml`).
    pub fn with_defaults() -> Self {
        Self { means: defaults::means(), series: BTreeMap::new() }
    }

    /// Adds a file of intervals; `name` tells the zone of files that carry none (`FR_2023_hourly.csv` is `FR`).
    /// Returns how many intervals it holds. A file that cannot be used changes nothing.
    pub fn add_file(&mut self, name: &str, text: &str) -> Result<usize, GridError> {
        let rows = table::parse(name, text)?;
        let count = rows.len();
        let mut series = self.series.clone();
        for row in rows {
            series.entry((row.scope, row.zone)).or_default().push(row.interval);
        }
        for ((_, zone), intervals) in &mut series {
            table::sort_and_check(zone, intervals)?;
        }
        self.series = series;
        Ok(count)
    }

    /// Reads `path` and adds it.
    pub fn add_path(&mut self, path: &Path) -> Result<usize, GridError> {
        let whole = |what: String| GridError::BadFile { line: 0, what };
        let length = std::fs::metadata(path).map_err(|error| whole(error.to_string()))?.len();
        if length > table::FILE_MAX_BYTES {
            return Err(whole(format!("it has {length} bytes, more than {}", table::FILE_MAX_BYTES)));
        }
        let text = std::fs::read_to_string(path).map_err(|error| whole(error.to_string()))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.add_file(&name, &text)
    }

    /// The intensity of `zone` at `at`. Outside the hourly data the yearly mean stands in and says so.
    pub fn intensity(&self, zone: &str, at: Timestamp, scope: Scope) -> Result<GridSignal, GridError> {
        let key = (scope, zone.to_ascii_uppercase());
        let hour = self.series.get(&key).and_then(|intervals| table::at(intervals, at));
        let signal = |mg_per_kwh, source: &str, is_estimated| GridSignal {
            zone: key.1.clone(),
            mg_per_kwh,
            scope,
            source: source.to_owned(),
            is_estimated,
        };
        if let Some(hour) = hour {
            return Ok(signal(hour.mg_per_kwh, &hour.source, hour.is_estimated));
        }
        if let Some(mean) = self.means.get(&key) {
            return Ok(signal(mean.mg_per_kwh, &mean.source, true));
        }
        let known: Vec<_> = self.zones(scope).collect();
        Err(GridError::UnknownZone { zone: zone.chars().take(20).collect(), scope, known: known.join(" ") })
    }

    /// Zones that are known in a scope, in order.
    pub fn zones(&self, scope: Scope) -> impl Iterator<Item = &str> {
        let mut zones: Vec<_> = self
            .means
            .keys()
            .chain(self.series.keys())
            .filter(|(of, _)| *of == scope)
            .map(|(_, zone)| zone.as_str())
            .collect();
        zones.sort_unstable();
        zones.dedup();
        zones.into_iter()
    }
}
