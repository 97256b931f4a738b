//! What was typed: values as text with their origin, strongest layer first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use galerne_api::error::Code;
use galerne_api::nearest::nearest;

use super::keys::{KEYS, find};
use super::{BadConfig, ConfigProblem};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag.
    Flag,
    /// An environment variable.
    Environment(&'static str),
    /// The file.
    File(String),
    /// Nobody said anything.
    Default,
}

/// Values as typed.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, (String, Origin)>,
    /// The user's own data directory, where `data` points when nobody says otherwise.
    pub(super) user_data: Option<String>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Layers {
    /// Puts defaults, file, environment and flags on top of each other. `flags` holds (option, value) pairs.
    pub fn read(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &[(&str, String)],
    ) -> Result<Self, BadConfig> {
        let mut layers = Self { user_data: user_data(environment), ..Self::default() };
        for key in KEYS.iter().filter(|key| !key.default.is_empty()) {
            layers.values.insert(key.name, (key.default.to_owned(), Origin::Default));
        }
        let mut problems = Vec::new();
        if let Some(path) = file {
            layers.read_file(path, &mut problems);
        }
        for key in KEYS {
            if let Some(value) = environment.get(key.env).filter(|value| !value.is_empty()) {
                layers.values.insert(key.name, (value.clone(), Origin::Environment(key.env)));
            }
        }
        for (name, value) in flags {
            match find(name) {
                Some(key) => layers.values.insert(key.name, (value.clone(), Origin::Flag)),
                None => {
                    problems.push(unknown(name, Origin::Flag));
                    None
                }
            };
        }
        if problems.is_empty() { Ok(layers) } else { Err(BadConfig { problems }) }
    }

    /// The user's own data directory, where `data` points when nobody says otherwise.
    pub fn user_data(&self) -> Option<&str> {
        self.user_data.as_deref()
    }

    /// The value of an option, as typed.
    pub fn get(&self, name: &str) -> Option<(&str, &Origin)> {
        self.values.get(name).map(|(value, origin)| (value.as_str(), origin))
    }

    fn read_file(&mut self, path: &Path, problems: &mut Vec<ConfigProblem>) {
        let origin = Origin::File(path.display().to_string());
        let mut bad = |key: &str, detail: String, hint: &str| {
            problems.push(ConfigProblem {
                key: key.to_owned(),
                origin: origin.clone(),
                detail,
                hint: hint.to_owned(),
                code: Code::ConfigInvalid,
            });
        };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => {
                return bad(
                    "--config",
                    format!("the file cannot be read: {error}"),
                    "check the path and its permissions",
                );
            }
        };
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                return bad(
                    "--config",
                    format!("the file is not TOML: {}", error.message()),
                    "write `option = \"value\"` lines",
                );
            }
        };
        for (name, value) in table {
            let Some(key) = find(&name) else {
                problems.push(unknown(&name, origin.clone()));
                continue;
            };
            let text = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(_) | toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    let detail = "the value must be a text or a number".to_owned();
                    problems.push(ConfigProblem {
                        key: name,
                        origin: origin.clone(),
                        detail,
                        hint: key.doc.to_owned(),
                        code: Code::ConfigInvalid,
                    });
                    continue;
                }
            };
            self.values.insert(key.name, (text, origin.clone()));
        }
    }
}

/// The environment, read once.
#[allow(clippy::disallowed_methods, reason = "this is where the environment is read")]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn user_data(environment: &BTreeMap<String, String>) -> Option<String> {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    set("XDG_DATA_HOME")
        .map(|base| format!("{base}/galerne"))
        .or_else(|| set("HOME").map(|home| format!("{home}/.local/share/galerne")))
}

fn unknown(name: &str, origin: Origin) -> ConfigProblem {
    let near = nearest(name, KEYS.iter().map(|key| key.name));
    let hint = near.first().map_or_else(
        || "`galerne config show` lists every option".to_owned(),
        |near| format!("did you mean `{near}`?"),
    );
    ConfigProblem {
        key: name.to_owned(),
        origin,
        detail: "there is no such option".to_owned(),
        hint,
        code: Code::ConfigInvalid,
    }
}
