//! Configuration: what was typed (`Layers`) becomes what is meant (`Config`) once, here, with all problems together.
//!
//! Order, strongest first: flags, environment, file, defaults. Each value remembers where it came from.

use std::net::SocketAddr;
use std::path::PathBuf;

use galerne_drivers::webhook::Receiver;
use galerne_model::inference::Reach;
use galerne_model::units::Milliwatts;
use galerne_store::StoreUrl;

mod events;
mod keys;
mod layers;
mod meaning;
mod objects;

pub use keys::{KEYS, Key};
pub use layers::{Layers, Origin, environment};
pub use objects::ObjectsPlace;

/// What is meant.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Certificate and key, when TLS is spoken.
    pub tls: Option<TlsFiles>,
    /// The database.
    pub database: StoreUrl,
    /// Grid zone of this site.
    pub zone: String,
    /// Hourly carbon intensities; absent means the yearly mean of the zone.
    pub grid: Option<PathBuf>,
    /// Power usage effectiveness, in thousandths: 1200 is 1.2.
    pub pue_thousandths: i64,
    /// Stated power of this host, where its hardware does not measure.
    pub power: StatedPower,
    /// How log lines are written.
    pub log: LogFormat,
    /// What everybody's downloads may connect to; those of operators may connect to anything.
    pub reach: Reach,
    /// Most memory of the gateway's prefix index.
    pub prefix_index_bytes: usize,
    /// Where every event is sent; absent means nowhere.
    pub events: Option<Receiver>,
    /// Where files are kept, and how much of them.
    pub objects: ObjectsPlace,
    /// The worker program; absent means beside this one.
    pub worker: Option<PathBuf>,
}

/// Files of TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain in PEM.
    pub cert: PathBuf,
    /// Its key in PEM.
    pub key: PathBuf,
}

/// Power of this host as stated by who runs it; absent means by the agent's model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatedPower {
    /// The whole host doing nothing.
    pub idle: Option<Milliwatts>,
    /// One busy processor thread above idle.
    pub active: Option<Milliwatts>,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text at a terminal, JSON elsewhere.
    Auto,
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", summary(.problems))]
pub struct BadConfig {
    /// Each problem; at least one.
    pub problems: Vec<ConfigProblem>,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigProblem {
    /// The option.
    pub key: String,
    /// Where its value came from.
    pub origin: Origin,
    /// What is wrong.
    pub detail: String,
    /// What to do.
    pub hint: String,
    /// Stable code.
    pub code: galerne_api::error::Code,
}

/// One option as `galerne config show` prints it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The option.
    pub key: &'static str,
    /// Its value, passwords hidden; empty when unset.
    pub value: String,
    /// Where it came from.
    pub origin: String,
    /// What it is.
    pub doc: &'static str,
}

impl Config {
    /// What the layers mean, or everything that is wrong with them.
    pub fn from_layers(layers: &Layers) -> Result<Self, BadConfig> {
        meaning::of(layers)
    }
}

impl BadConfig {
    /// The code of the whole: that of its only problem, or the general one.
    pub fn code(&self) -> galerne_api::error::Code {
        match self.problems.as_slice() {
            [only] => only.code,
            _ => galerne_api::error::Code::ConfigInvalid,
        }
    }
}

/// What each option is and where it came from.
pub fn show(layers: &Layers) -> Vec<Shown> {
    KEYS.iter()
        .map(|key| {
            let (value, origin) = layers.get(key.name).map_or_else(
                || (String::new(), "unset".to_owned()),
                |(value, origin)| (value.to_owned(), origin.to_string()),
            );
            // An address of a database may hold a password; its Display hides it.
            let value = if key.secret && !value.is_empty() {
                value.parse::<StoreUrl>().map_or_else(|_| "(hidden)".to_owned(), |url| url.to_string())
            } else {
                value
            };
            Shown { key: key.name, value, origin, doc: key.doc }
        })
        .collect()
}

fn summary(problems: &[ConfigProblem]) -> String {
    let lines: Vec<String> =
        problems.iter().map(|problem| format!("`{}` ({}): {}", problem.key, problem.origin, problem.detail)).collect();
    lines.join("; ")
}

#[cfg(test)]
mod tests;
