//! The rules of structure that a compiler does not check; each finding says what, why, and what to do.
//!
//! Every rule reads files or cargo's own metadata and changes nothing. Each has a test in which a planted
//! violation is caught. Deliberately absent: style that rustfmt or clippy already decide.

use std::fmt;
use std::path::Path;

use anyhow::Result;

mod allowed;
mod attributes;
mod bans;
mod clippy_files;
mod dependencies;
mod documents;
mod error_pages;
mod graph;
mod leaks;
mod metadata;
mod names;
mod sizes;
mod spdx;
pub(crate) mod tree;
mod unused;

#[cfg(test)]
mod tests;

use tree::Tree;

/// What is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Show {
    /// Only what fails.
    Failures,
    /// Also what is merely large.
    Warnings,
}

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// File, relative to the workspace root.
    pub(crate) path: String,
    /// Line in it, from 1.
    pub(crate) line: usize,
    /// Short name of the rule, as used in `xtask/allowed.toml`.
    pub(crate) rule: &'static str,
    /// What was found.
    pub(crate) what: String,
    /// Why it is a rule.
    pub(crate) why: &'static str,
    /// What to do.
    pub(crate) hint: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}: {}; hint: {}", self.path, self.line, self.rule, self.what, self.why, self.hint)
    }
}

/// What a run found: failures break the build, warnings do not.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) failures: Vec<Finding>,
    pub(crate) warnings: Vec<Finding>,
}

/// Checks the workspace at `root`, prints findings, and says whether there were no failures.
pub(crate) fn run(root: &Path, show: Show) -> Result<bool> {
    let report = check(root)?;
    for finding in &report.failures {
        println!("{finding}");
    }
    if show == Show::Warnings {
        for finding in &report.warnings {
            println!("{finding} (warning)");
        }
    }
    println!("tidy: {} failures, {} warnings", report.failures.len(), report.warnings.len());
    Ok(report.failures.is_empty())
}

/// All rules over the workspace at `root`.
pub(crate) fn check(root: &Path) -> Result<Report> {
    let tree = Tree::load(root)?;
    let mut report = check_files(&tree)?;
    let packages = metadata::read(root)?;
    report.failures.extend(graph::check(&packages, &tree));
    report.failures.extend(dependencies::check(&packages, &tree)?);
    report.failures.extend(unused::check(&packages, &tree));
    report.failures = allowed::read(&tree)?.filter(report.failures);
    report.failures.sort();
    report.warnings.sort();
    Ok(report)
}

/// The rules that need only files, exceptions not yet taken out.
pub(crate) fn check_files(tree: &Tree) -> Result<Report> {
    let mut report = sizes::check(tree);
    report.failures.extend(tree.unparsed());
    report.failures.extend(names::check(tree));
    report.failures.extend(attributes::check(tree));
    report.failures.extend(clippy_files::check(tree)?);
    report.failures.extend(error_pages::check(tree));
    report.failures.extend(leaks::check(tree));
    report.failures.extend(documents::check(tree));
    report.failures.extend(bans::check(tree));
    report.failures.sort();
    Ok(report)
}
