//! Documents that point at what is not there, folders of other people's data without a licence, decisions without number.

use super::Finding;
use super::tree::{TextFile, Tree};

/// Folders whose files in backticks must exist.
const OWN_FOLDERS: &[&str] =
    &["bin/", "crates/", "docs/", "tests/", "examples/", "catalogue/", "xtask/", "make/", ".ci/", ".cargo/"];

/// Folders that hold what others wrote.
const VENDORED: &[&str] = &["vendor", "vendored", "third_party"];

/// The largest document of its kind, in lines.
const ARCHITECTURE_LIMIT: usize = 400;

/// Dead links, dead paths, vendored folders without licence, an overlong ARCHITECTURE.md.
pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.texts.iter().filter(|file| file.path.ends_with(".md")) {
        findings.extend(links(file, tree));
        findings.extend(paths(file, tree));
    }
    findings.extend(vendored(tree));
    let length = tree.text("docs/ARCHITECTURE.md").map_or(0, |text| text.lines().count());
    if length > ARCHITECTURE_LIMIT {
        let what = format!("{length} lines, over {ARCHITECTURE_LIMIT}");
        findings.push(finding("docs/ARCHITECTURE.md", 1, what, "it is read whole, once", "cut what the code says"));
    }
    findings
}

/// `[text](target)` where the target is a file of ours.
fn links(file: &TextFile, tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for (at, _) in line.match_indices("](") {
            let target = line[at + 2..].split(')').next().unwrap_or_default();
            let target = target.split('#').next().unwrap_or_default();
            let is_outside = target.is_empty() || target.contains(':') || target.starts_with('<');
            if !is_outside && !tree.has(&resolve(&file.path, target)) {
                let what = format!("link to `{target}`, which does not exist");
                findings.push(finding(&file.path, index + 1, what, "documents state what is", "correct the link"));
            }
        }
    }
    findings
}

/// Paths in backticks such as `crates/core/src/lib.rs`.
fn paths(file: &TextFile, tree: &Tree) -> Vec<Finding> {
    // The changelog may name what has gone.
    if file.path == "CHANGELOG.md" {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        for quoted in line.split('`').skip(1).step_by(2) {
            let is_ours = OWN_FOLDERS.iter().any(|folder| quoted.starts_with(folder));
            let is_pattern =
                quoted.contains(['*', '<', '{', ' ', '…', '$']) || quoted.contains("NNNN") || quoted.contains("CODE");
            let path = quoted.split(':').next().unwrap_or_default();
            if is_ours && !is_pattern && !tree.has(path) {
                let what = format!("`{path}` does not exist");
                findings.push(finding(&file.path, index + 1, what, "documents state what is", "correct the path"));
            }
        }
    }
    findings
}

fn vendored(tree: &Tree) -> Vec<Finding> {
    let mut folders: Vec<String> = Vec::new();
    for path in &tree.paths {
        let parts: Vec<&str> = path.split('/').collect();
        if let Some(at) = parts.iter().position(|part| VENDORED.contains(part))
            && at + 2 < parts.len()
        {
            folders.push(parts[..=at + 1].join("/"));
        }
    }
    folders.sort();
    folders.dedup();
    folders.retain(|folder| {
        let prefix = format!("{folder}/LICEN");
        !tree.paths.iter().any(|path| path.starts_with(&prefix))
    });
    let one = |folder: String| {
        let what = format!("`{folder}` has no LICENSE");
        finding(
            &folder,
            1,
            what,
            "what others wrote is used under their terms",
            "add their licence text and the source",
        )
    };
    folders.into_iter().map(one).collect()
}

/// A relative link seen from the folder of the file it stands in.
fn resolve(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    parts.join("/")
}

fn finding(path: &str, line: usize, what: String, why: &'static str, hint: &str) -> Finding {
    Finding { path: path.to_owned(), line, rule: "document", what, why, hint: hint.to_owned() }
}
