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
    findings.extend(tree.texts.iter().filter_map(|file| manifest(&file.path, &file.text)));
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

fn manifest(path: &str, text: &str) -> Option<Finding> {
    let is_package = path.ends_with("Cargo.toml") && text.lines().any(|line| line.trim() == "[package]");
    let inherits = text.split("[lints]").nth(1).is_some_and(|after| after.trim_start().starts_with("workspace = true"));
    (is_package && !inherits).then(|| Finding {
        path: path.to_owned(),
        line: 1,
        rule: "lints",
        what: "a crate without the workspace's lints".to_owned(),
        why: "rules hold everywhere or nowhere",
        hint: "add `[lints]` with `workspace = true`".to_owned(),
    })
}
