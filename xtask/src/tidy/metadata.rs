//! The crate graph as cargo itself resolves it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// One package of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// SPDX expression, when the package states one.
    pub(crate) license: Option<String>,
    /// Where it comes from; none for the workspace's own.
    pub(crate) source: Option<String>,
    /// Manifest, relative to the workspace root, for the workspace's own.
    pub(crate) manifest: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// Which table the line stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    Build,
    Dev,
}

impl Package {
    /// Whether it is one of ours.
    pub(crate) fn is_local(&self) -> bool {
        self.source.is_none()
    }
}

/// Asks cargo for the graph on the platform we ship for.
pub(crate) fn read(root: &Path) -> Result<Vec<Package>> {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root)
        .output()
        .context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    parse(&serde_json::from_slice(&output.stdout).context("cargo metadata prints JSON")?)
}

/// Reads the parts we need from what `cargo metadata` prints.
pub(crate) fn parse(document: &Value) -> Result<Vec<Package>> {
    let root = document["workspace_root"].as_str().context("`workspace_root` in the metadata")?;
    let packages = document["packages"].as_array().context("`packages` in the metadata")?;
    packages.iter().map(|package| parse_package(package, root)).collect()
}

fn parse_package(package: &Value, root: &str) -> Result<Package> {
    let text = |name: &str| package[name].as_str().map(str::to_owned);
    let manifest = text("manifest_path").context("`manifest_path` of a package")?;
    let relative = manifest.strip_prefix(root).map_or(manifest.as_str(), |rest| rest.trim_start_matches('/'));
    let lines = package["dependencies"].as_array().context("`dependencies` of a package")?;
    let dependencies = lines.iter().filter_map(|line| {
        let kind = match line["kind"].as_str() {
            None => Kind::Normal,
            Some("build") => Kind::Build,
            Some(_) => Kind::Dev,
        };
        line["name"].as_str().map(|name| Dependency { name: name.to_owned(), kind })
    });
    Ok(Package {
        name: text("name").context("`name` of a package")?,
        version: text("version").context("`version` of a package")?,
        license: text("license"),
        source: text("source"),
        manifest: relative.to_owned(),
        dependencies: dependencies.collect(),
    })
}
