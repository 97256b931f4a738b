//! The files git knows or would add, read once; Rust files also parsed once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use syn::spanned::Spanned as _;

use super::Finding;

/// One text file.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Relative to the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// One Rust file that parses.
pub(crate) struct RustFile {
    pub(crate) path: String,
    pub(crate) text: String,
    /// The file as it is.
    pub(crate) whole: syn::File,
    /// The file without `#[cfg(test)]` items and `#[test]` functions; empty for files that are tests.
    pub(crate) shipped: syn::File,
    /// Lines that belong to `#[cfg(test)]` items.
    pub(crate) test_lines: usize,
}

impl RustFile {
    /// Whether the whole file exists only for tests or measurements.
    pub(crate) fn is_test(&self) -> bool {
        is_test_path(&self.path)
    }
}

/// Everything that is tracked, or would be by `git add --all`.
pub(crate) struct Tree {
    pub(crate) texts: Vec<TextFile>,
    pub(crate) rust: Vec<RustFile>,
    /// Every path, binary files included.
    pub(crate) paths: Vec<String>,
    unparsed: Vec<Finding>,
}

impl Tree {
    /// Reads the tree under `root`, which is a git worktree.
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let mut tree = Self { texts: Vec::new(), rust: Vec::new(), paths: list(root)?, unparsed: Vec::new() };
        for path in &tree.paths {
            let bytes = std::fs::read(root.join(path)).with_context(|| format!("read {path}"))?;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let is_rust = Path::new(path).extension().is_some_and(|extension| extension == "rs");
            if is_rust {
                match parse(path, &text) {
                    Ok(file) => tree.rust.push(file),
                    Err(finding) => tree.unparsed.push(finding),
                }
            }
            tree.texts.push(TextFile { path: path.clone(), text });
        }
        Ok(tree)
    }

    /// One finding per Rust file that does not parse.
    pub(crate) fn unparsed(&self) -> Vec<Finding> {
        self.unparsed.clone()
    }

    /// The text at `path`.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.texts.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    /// Whether `path` is a file or a folder with files in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let folder = format!("{path}/");
        self.paths.iter().any(|known| known == path || known.starts_with(&folder))
    }

    /// The line in `path` that first contains `needle`, or 1.
    pub(crate) fn line_of(&self, path: &str, needle: &str) -> usize {
        let found = self.text(path).and_then(|text| text.lines().position(|line| line.contains(needle)));
        found.map_or(1, |index| index + 1)
    }
}

/// Whether a path holds only tests, benches or examples of tests.
pub(crate) fn is_test_path(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "benches"))
}

fn list(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"])
        .current_dir(root)
        .output()
        .context("run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let listed = String::from_utf8(output.stdout).context("paths are UTF-8")?;
    let mut paths: Vec<String> = listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    // A file deleted but not yet committed is still listed.
    paths.retain(|path| root.join(path).is_file());
    paths.sort();
    Ok(paths)
}

fn parse(path: &str, text: &str) -> Result<RustFile, Finding> {
    let whole = syn::parse_file(text).map_err(|error| Finding {
        path: path.to_owned(),
        line: error.span().start().line,
        rule: "parse",
        what: format!("not Rust: {error}"),
        why: "no other rule can be checked",
        hint: "run `cargo check`".to_owned(),
    })?;
    let mut shipped = whole.clone();
    let mut test_lines = 0;
    if is_test_path(path) {
        shipped.items.clear();
    } else {
        shipped.items = without_tests(shipped.items, &mut test_lines);
    }
    Ok(RustFile { path: path.to_owned(), text: text.to_owned(), whole, shipped, test_lines })
}

fn without_tests(items: Vec<syn::Item>, test_lines: &mut usize) -> Vec<syn::Item> {
    let mut kept = Vec::with_capacity(items.len());
    for mut item in items {
        if is_test(attributes(&item)) {
            let span = item.span();
            *test_lines += span.end().line.saturating_sub(span.start().line) + 1;
            continue;
        }
        if let syn::Item::Mod(module) = &mut item
            && let Some((_, inner)) = &mut module.content
        {
            *inner = without_tests(std::mem::take(inner), test_lines);
        }
        if let syn::Item::Impl(block) = &mut item {
            block.items.retain(|member| !matches!(member, syn::ImplItem::Fn(function) if is_test(&function.attrs)));
        }
        kept.push(item);
    }
    kept
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]`, `#[tokio::test]`.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        if attribute.path().is_ident("cfg") {
            let tokens = attribute.meta.require_list().map(|list| list.tokens.to_string());
            return tokens.is_ok_and(|tokens| {
                let has_test = tokens.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "test");
                has_test && !tokens.contains("not (test") && !tokens.contains("not(test")
            });
        }
        attribute.path().segments.last().is_some_and(|segment| segment.ident == "test")
    })
}

fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
