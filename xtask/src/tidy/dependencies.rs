//! Licences, sources and forbidden crates of everything we build with, by the rules in `deny.toml`.
//!
//! cargo-deny reads the same file and knows more (texts, advisories); this check needs no network and no install.

use anyhow::{Context, Result};

use super::Finding;
use super::metadata::Package;
use super::spdx;
use super::tree::Tree;

const PATH: &str = "deny.toml";

/// The part of `deny.toml` that is checked here.
#[derive(Debug, Default)]
struct Rules {
    licences: Vec<String>,
    /// Crate, and what only it may have.
    exceptions: Vec<(String, Vec<String>)>,
    denied: Vec<Denied>,
}

/// A crate that is not to be there.
#[derive(Debug, Default)]
struct Denied {
    name: String,
    reason: String,
    /// Crates that may bring it all the same.
    wrappers: Vec<String>,
}

/// Every package from outside that breaks a rule.
pub(crate) fn check(packages: &[Package], tree: &Tree) -> Result<Vec<Finding>> {
    let Some(text) = tree.text(PATH) else { return Ok(Vec::new()) };
    let rules = parse(text)?;
    let outside: Vec<&Package> = packages.iter().filter(|package| !package.is_local()).collect();
    let lock = tree.text("Cargo.lock").unwrap_or_default();
    let lock: toml::Table = lock.parse().context("parse Cargo.lock")?;
    let mut findings = Vec::new();
    for package in &outside {
        findings.extend(licence(package, &rules));
        findings.extend(denied(package, &rules, &lock));
        findings.extend(source(package, &outside));
    }
    Ok(findings)
}

fn licence(package: &Package, rules: &Rules) -> Option<Finding> {
    let allowed = |licence: &str| {
        let for_this = rules.exceptions.iter().filter(|(name, _)| *name == package.name).flat_map(|(_, list)| list);
        rules.licences.iter().chain(for_this).any(|known| known == licence)
    };
    let stated = package.license.as_deref();
    if stated.is_some_and(|expression| spdx::is_met(expression, &allowed)) {
        return None;
    }
    let what = format!("`{}` {} is under {}", package.name, package.version, stated.unwrap_or("no stated licence"));
    Some(finding("licence", what, "what we ship is Apache-2.0 and must stay so", "choose another crate".to_owned()))
}

fn denied(package: &Package, rules: &Rules, lock: &toml::Table) -> Option<Finding> {
    let Denied { reason, wrappers, .. } = rules.denied.iter().find(|denied| denied.name == package.name)?;
    let by = brought_by(&package.name, lock);
    if !by.is_empty() && by.iter().all(|name| wrappers.iter().any(|wrapper| wrapper == name)) {
        return None;
    }
    let what = format!("`{}` {} is in the graph", package.name, package.version);
    let hint = format!("{reason}; `cargo tree -i {}` says who brings it", package.name);
    Some(finding("denied", what, "one crate per concern", hint))
}

/// Packages of the lock file that depend on a crate.
fn brought_by<'a>(name: &str, lock: &'a toml::Table) -> Vec<&'a str> {
    let depends = |package: &&toml::Value| {
        // `name`, or `name version` where there are several of it.
        let mut named = array(package.get("dependencies")).filter_map(toml::Value::as_str);
        named.any(|dependency| dependency.split(' ').next() == Some(name))
    };
    let packages = array(lock.get("package")).filter(depends);
    packages.filter_map(|package| package.get("name").and_then(toml::Value::as_str)).collect()
}

fn array(value: Option<&toml::Value>) -> impl Iterator<Item = &toml::Value> {
    value.and_then(toml::Value::as_array).into_iter().flatten()
}

/// All packages come from one registry: the one most of them come from.
fn source(package: &Package, outside: &[&Package]) -> Option<Finding> {
    let own = package.source.as_deref()?;
    let is_common =
        |source: &str| outside.iter().filter(|p| p.source.as_deref() == Some(source)).count() * 2 > outside.len();
    if own.starts_with("registry+") && is_common(own) {
        return None;
    }
    let what = format!("`{}` {} comes from elsewhere than the others", package.name, package.version);
    Some(finding("source", what, "a second source is a second party to trust", "take a published version".to_owned()))
}

fn finding(rule: &'static str, what: String, why: &'static str, hint: String) -> Finding {
    Finding { path: "Cargo.lock".to_owned(), line: 1, rule, what, why, hint }
}

fn parse(text: &str) -> Result<Rules> {
    let document: toml::Table = text.parse().with_context(|| format!("parse {PATH}"))?;
    let list = |section: &str, key: &str| {
        let value = document.get(section).and_then(|section| section.get(key));
        value.and_then(toml::Value::as_array).cloned().unwrap_or_default()
    };
    let text_of =
        |row: &toml::Value, key: &str| row.get(key).and_then(toml::Value::as_str).unwrap_or_default().to_owned();
    let texts =
        |rows: &[toml::Value]| rows.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect::<Vec<_>>();
    let exceptions = list("licenses", "exceptions").into_iter().map(|row| {
        let allow = row.get("allow").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        (text_of(&row, "crate"), texts(&allow))
    });
    let denied = list("bans", "deny").into_iter().map(|row| {
        let wrappers = row.get("wrappers").and_then(toml::Value::as_array).cloned().unwrap_or_default();
        Denied { name: text_of(&row, "crate"), reason: text_of(&row, "reason"), wrappers: texts(&wrappers) }
    });
    Ok(Rules {
        licences: texts(&list("licenses", "allow")),
        exceptions: exceptions.collect(),
        denied: denied.collect(),
    })
}
