//! Dependencies that no file of their crate names: built by everybody, for nothing.

use super::Finding;
use super::metadata::{Dependency, Package};
use super::tree::Tree;

/// Every line of a manifest whose crate is not named in the package's Rust files.
pub(crate) fn check(packages: &[Package], tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages.iter().filter(|package| package.is_local()) {
        let folder = package.manifest.trim_end_matches("Cargo.toml");
        let files: Vec<&str> =
            tree.texts.iter().filter(|file| is_rust_in(&file.path, folder)).map(|file| file.text.as_str()).collect();
        let unused = package.dependencies.iter().filter(|dependency| {
            let word = dependency.name.replace('-', "_");
            !files.iter().any(|text| has_word(text, &word))
        });
        findings.extend(unused.map(|dependency| finding(package, dependency, tree)));
    }
    findings
}

fn is_rust_in(path: &str, folder: &str) -> bool {
    path.ends_with(".rs") && path.starts_with(folder)
}

fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

fn finding(package: &Package, dependency: &Dependency, tree: &Tree) -> Finding {
    Finding {
        path: package.manifest.clone(),
        line: tree.line_of(&package.manifest, &dependency.name),
        rule: "unused",
        what: format!("`{}` is not named in any file of the crate", dependency.name),
        why: "everybody builds it, for nothing",
        hint: "remove the line".to_owned(),
    }
}
