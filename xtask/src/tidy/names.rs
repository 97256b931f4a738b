//! Names that say nothing, as files, modules or types.

use syn::visit::Visit;

use super::Finding;
use super::tree::Tree;

/// Empty anywhere in a name.
const ANYWHERE: &[&str] = &["manager", "helper", "helpers", "util", "utils", "common", "misc", "processor", "smart"];
/// Empty as the last word: `GpuInfo` says no more than `Gpu`; a `DataDirectory` is a thing.
const LAST: &[&str] = &["data", "info"];
/// Empty when alone.
const ALONE: &[&str] = &["service", "context"];

/// Every file, module and type with an empty name.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.rust {
        let stem = file.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        findings.extend(finding(&file.path, 1, "file", stem));
        if stem == "mod" {
            findings.push(module_file(&file.path));
        }
        let mut types = Types { path: &file.path, findings: Vec::new() };
        types.visit_file(&file.whole);
        findings.extend(types.findings);
    }
    findings
}

struct Types<'a> {
    path: &'a str,
    findings: Vec<Finding>,
}

impl Types<'_> {
    fn look(&mut self, kind: &str, name: &syn::Ident) {
        let line = name.span().start().line;
        self.findings.extend(finding(self.path, line, kind, &name.to_string()));
    }
}

impl<'ast> Visit<'ast> for Types<'_> {
    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        self.look("type", &item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        self.look("type", &item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        self.look("type", &item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.look("trait", &item.ident);
        syn::visit::visit_item_trait(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.look("module", &item.ident);
        syn::visit::visit_item_mod(self, item);
    }
}

fn finding(path: &str, line: usize, kind: &str, name: &str) -> Option<Finding> {
    let words = words(name);
    let last = words.last()?;
    let empty = words.iter().find(|word| ANYWHERE.contains(&word.as_str()));
    let empty = empty.or_else(|| LAST.contains(&last.as_str()).then_some(last));
    let empty = empty.or_else(|| (words.len() == 1 && ALONE.contains(&last.as_str())).then_some(last))?;
    Some(Finding {
        path: path.to_owned(),
        line,
        rule: "name",
        what: format!("{kind} `{name}` is named `{empty}`"),
        why: "the word says nothing about what it is",
        hint: "name it by what it is, and put it beside its user (docs/GLOSSARY.md)".to_owned(),
    })
}

fn module_file(path: &str) -> Finding {
    Finding {
        path: path.to_owned(),
        line: 1,
        rule: "name",
        what: "module in `mod.rs`".to_owned(),
        why: "twenty open files called `mod.rs` cannot be told apart",
        hint: "rename it to `foo.rs` beside the folder `foo`".to_owned(),
    }
}

/// `GpuInfo`, `gpu_info` and `gpu-info` are the words `gpu` and `info`.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    for character in name.chars() {
        let separates = !character.is_alphanumeric();
        let begins = character.is_uppercase() && words.last().is_some_and(|word| !word.is_empty());
        if separates || begins {
            words.push(String::new());
        }
        if !separates && let Some(word) = words.last_mut() {
            word.extend(character.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
