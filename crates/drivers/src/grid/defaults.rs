//! The yearly means that are compiled in.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::amount::milligrams;
use super::{Scope, YearlyMean};

const TEXT: &str = include_str!("../../../../catalogue/grid-defaults.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    source: Vec<Source>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Source {
    /// Who says so, in a word or two.
    name: String,
    /// What exactly was published; for readers of the file.
    #[expect(dead_code, reason = "part of the file's form, kept for whoever checks a figure")]
    title: String,
    scope: Scope,
    year: u16,
    g_per_kwh: BTreeMap<String, String>,
}

/// Every mean by scope and zone. A zone that two sources name keeps the newer year.
pub(super) fn means() -> BTreeMap<(Scope, String), YearlyMean> {
    let mut document: Document = toml::from_str(TEXT).expect("the compiled-in file is parsed by a test");
    document.source.sort_by_key(|source| source.year);
    let mut means = BTreeMap::new();
    for source in document.source {
        for (zone, grams) in source.g_per_kwh {
            let mg_per_kwh = milligrams(&grams).expect("the compiled-in file is parsed by a test");
            let words = format!("{}, yearly mean {}", source.name, source.year);
            means.insert((source.scope, zone), YearlyMean { mg_per_kwh, source: words });
        }
    }
    means
}
