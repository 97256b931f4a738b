//! Which crate may depend on which: the table of borders, checked against the graph cargo resolves.

use super::Finding;
use super::metadata::{Dependency, Kind, Package};
use super::tree::Tree;

/// Crate, and the crates it may depend on. The order is the reading order of the workspace.
const BORDERS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("core", &["model"]),
    ("planner", &["model"]),
    ("api", &["model"]),
    ("store", &["model"]),
    ("drivers", &["model", "api"]),
    ("control", &["model", "core", "planner", "store", "drivers"]),
    ("gateway", &["model", "core", "api"]),
    ("server", &["model", "core", "api", "store", "drivers", "control", "gateway"]),
    ("worker", &["api"]),
    ("agent", &["model", "api"]),
    ("cli", &["model", "api"]),
    // The words as well: it hands what the agent reads to the server.
    ("bin", &["model", "api", "server", "agent", "cli"]),
    ("bench-chart", &[]),
    ("planner-bench", &["planner", "bench-chart"]),
    ("gateway-bench", &["model", "store", "gateway", "bench-chart"]),
    ("fuzz", &["model", "core", "api", "gateway"]),
    ("xtask", &[]),
];

/// Crates that decide or name things and touch nothing: all they may take from outside. jiff brings instants and
/// civil days as values; its clock is banned by the crates' own clippy.toml.
const PURE: &[(&str, &[&str])] = &[
    ("model", &["serde", "uuid", "jiff", "thiserror", "utoipa"]),
    ("core", &["jiff", "thiserror"]),
    ("planner", &["rustc-hash", "sha2", "thiserror"]),
];

/// Every edge of the workspace that the table does not have, and every crate it does not know.
pub(crate) fn check(packages: &[Package], tree: &Tree) -> Vec<Finding> {
    let local: Vec<&Package> = packages.iter().filter(|package| package.is_local()).collect();
    let mut findings = Vec::new();
    for package in &local {
        let folder = folder(&package.name);
        let Some((_, may)) = BORDERS.iter().find(|(name, _)| *name == folder) else {
            findings.push(unknown_crate(package));
            continue;
        };
        for dependency in &package.dependencies {
            let is_ours = local.iter().any(|other| other.name == dependency.name);
            if is_ours {
                findings.extend(own_edge(package, dependency, may, tree));
            } else {
                findings.extend(outside_edge(package, dependency, tree));
            }
        }
    }
    findings
}

/// `galerne-store` lives in the folder `store`, the binary `galerne` in `bin`.
fn folder(package: &str) -> &str {
    match package {
        "galerne" => "bin",
        other => other.strip_prefix("galerne-").unwrap_or(other),
    }
}

fn own_edge(from: &Package, to: &Dependency, may: &[&str], tree: &Tree) -> Option<Finding> {
    // Tests of a crate may be driven by whatever they need, except by crates above it that contain it.
    if to.kind == Kind::Dev || may.contains(&folder(&to.name)) {
        return None;
    }
    Some(Finding {
        path: from.manifest.clone(),
        line: tree.line_of(&from.manifest, &to.name),
        rule: "edge",
        what: format!("`{}` depends on `{}`", folder(&from.name), folder(&to.name)),
        why: "crates have hard borders (docs/ARCHITECTURE.md, section 3)",
        hint: match may {
            [] => "it may depend on no crate of ours: pass the value in, or move the code".to_owned(),
            _ => format!("it may depend on {}: pass the value in, or move the code", may.join(", ")),
        },
    })
}

fn outside_edge(from: &Package, to: &Dependency, tree: &Tree) -> Option<Finding> {
    let (_, may) = PURE.iter().find(|(name, _)| *name == folder(&from.name))?;
    if to.kind == Kind::Dev || may.contains(&to.name.as_str()) {
        return None;
    }
    Some(Finding {
        path: from.manifest.clone(),
        line: tree.line_of(&from.manifest, &to.name),
        rule: "edge",
        what: format!("pure crate `{}` depends on `{}`", folder(&from.name), to.name),
        why: "a pure crate that can reach the world will one day use it",
        hint: format!("from outside it may take {}: do the rest in `control` or `server`", may.join(", ")),
    })
}

fn unknown_crate(package: &Package) -> Finding {
    Finding {
        path: package.manifest.clone(),
        line: 1,
        rule: "edge",
        what: format!("crate `{}` is not in the table of borders", package.name),
        why: "a crate is added only if its border can be said",
        hint: "say what it knows nothing of, in docs/ARCHITECTURE.md and xtask/src/tidy/graph.rs".to_owned(),
    }
}
