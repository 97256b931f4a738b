//! What every Rust file says about itself: a header, and a reason for each lint it switches off.

use syn::spanned::Spanned as _;
use syn::visit::Visit;

use super::Finding;
use super::tree::{RustFile, Tree};

/// Files without a header, `allow`s without a reason, manifests without the workspace's lints.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.rust {
        findings.extend(header(file));
        let mut allows = Allows { path: &file.path, findings: Vec::new() };
        allows.visit_file(&file.whole);
        findings.extend(allows.findings);
    }
    findings.extend(manifests(tree));
    findings
}

fn header(file: &RustFile) -> Option<Finding> {
    // `foo/tests.rs` stands beside `foo.rs`, whose header speaks for both.
    if file.path.ends_with("/tests.rs") {
        return None;
    }
    let has_header = file
        .whole
        .attrs
        .iter()
        .any(|attribute| matches!(attribute.style, syn::AttrStyle::Inner(_)) && attribute.path().is_ident("doc"));
    (!has_header).then(|| Finding {
        path: file.path.clone(),
        line: 1,
        rule: "header",
        what: "no `//!` header".to_owned(),
        why: "a reader must learn what a file is for, and what is deliberately absent, before its first type",
        hint: "say its purpose, invariants and units in a few lines".to_owned(),
    })
}

struct Allows<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl<'ast> Visit<'ast> for Allows<'_> {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let switches_off = attribute.path().is_ident("allow") || attribute.path().is_ident("expect");
        let has_reason =
            matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string().contains("reason ="));
        if switches_off && !has_reason {
            self.findings.push(Finding {
                path: self.path.to_owned(),
                line: attribute.span().start().line,
                rule: "allow",
                what: "a lint is switched off without a reason".to_owned(),
                why: "the next reader cannot tell whether it still holds",
                hint: "add `reason = \"…\"`, or obey the lint".to_owned(),
            });
        }
    }
}

/// Every package inherits the workspace's lints, or repeats each of them (a table cannot inherit and override at once).
fn manifests(tree: &Tree) -> Vec<Finding> {
    let parse = |text: &str| text.parse::<toml::Table>().unwrap_or_default();
    let root = tree.text("Cargo.toml").map(parse).unwrap_or_default();
    let workspace = root.get("workspace").and_then(|workspace| workspace.get("lints")).cloned();
    let workspace = workspace.unwrap_or_else(|| toml::Value::Table(toml::Table::new()));
    let mut findings = Vec::new();
    for file in tree.texts.iter().filter(|file| file.path.ends_with("Cargo.toml")) {
        let document = parse(&file.text);
        let lints = document.get("lints");
        let inherits = lints.and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) == Some(true);
        if document.contains_key("package") && !inherits {
            let lacking = lints.map_or_else(|| vec!["all of them".to_owned()], |own| lacking(&workspace, own));
            findings.extend((!lacking.is_empty()).then(|| lints_finding(&file.path, &lacking)));
        }
    }
    findings
}

/// Lints that `own` does not set as the workspace does; `deny` may stand for `forbid`, so that one file can be let off.
fn lacking(workspace: &toml::Value, own: &toml::Value) -> Vec<String> {
    let mut lacking = Vec::new();
    for (tool, lints) in workspace.as_table().into_iter().flatten() {
        for (lint, level) in lints.as_table().into_iter().flatten() {
            let set = own.get(tool).and_then(|lints| lints.get(lint));
            let is_softer = level.as_str() == Some("forbid") && set.and_then(toml::Value::as_str) == Some("deny");
            if set != Some(level) && !is_softer {
                lacking.push(lint.clone());
            }
        }
    }
    lacking
}

fn lints_finding(path: &str, lacking: &[String]) -> Finding {
    Finding {
        path: path.to_owned(),
        line: 1,
        rule: "lints",
        what: format!("a crate without the workspace's lints: {}", lacking.join(", ")),
        why: "rules hold everywhere or nowhere",
        hint: "add `[lints]` with `workspace = true`".to_owned(),
    }
}
