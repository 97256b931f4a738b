//! The nearest `clippy.toml` replaces the root one, so each nearer file must repeat what the root bans;
//! and each pure crate must have one that bans the clock.

use anyhow::{Context, Result};

use super::Finding;
use super::tree::Tree;

const ROOT: &str = "clippy.toml";
const LISTS: &[&str] = &["disallowed-methods", "await-holding-invalid-types"];
const PURE: &[&str] = &["crates/core/clippy.toml", "crates/model/clippy.toml", "crates/planner/clippy.toml"];
const CLOCK: &[&str] =
    &["std::time::SystemTime::now", "std::time::Instant::now", "jiff::Timestamp::now", "uuid::Uuid::now_v7"];

/// Bans and settings of the root that a nearer file lacks.
pub(crate) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let Some(text) = tree.text(ROOT) else { return Ok(Vec::new()) };
    let root = parse(ROOT, text)?;
    let mut findings = Vec::new();
    for file in tree.texts.iter().filter(|file| file.path.ends_with("/clippy.toml")) {
        let nearer = parse(&file.path, &file.text)?;
        for list in LISTS {
            let have = banned(&nearer, list);
            let lost = banned(&root, list).into_iter().filter(|path| !have.contains(path));
            findings.extend(lost.map(|path| missing(&file.path, &format!("`{path}` in `{list}`"))));
        }
        for (key, value) in root.iter().filter(|(key, _)| !LISTS.contains(&key.as_str())) {
            if nearer.get(key) != Some(value) {
                findings.push(missing(&file.path, &format!("`{key} = {value}`")));
            }
        }
        if PURE.contains(&file.path.as_str()) {
            let have = banned(&nearer, "disallowed-methods");
            let lost = CLOCK.iter().filter(|path| !have.iter().any(|known| known == *path));
            findings.extend(lost.map(|path| no_clock_ban(&file.path, path)));
        }
    }
    let crates = PURE.iter().filter(|path| tree.has(path.trim_end_matches("/clippy.toml")));
    let without = crates.filter(|path| tree.text(path).is_none());
    findings.extend(without.map(|path| no_clock_ban(path, "std::time::SystemTime::now")));
    Ok(findings)
}

fn parse(path: &str, text: &str) -> Result<toml::Table> {
    text.parse().with_context(|| format!("parse {path}"))
}

fn banned(document: &toml::Table, list: &str) -> Vec<String> {
    let rows = document.get(list).and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let path = |row: &toml::Value| row.as_str().or_else(|| row.get("path")?.as_str()).map(str::to_owned);
    rows.iter().filter_map(path).collect()
}

fn missing(path: &str, what: &str) -> Finding {
    Finding {
        path: path.to_owned(),
        line: 1,
        rule: "clippy-file",
        what: format!("the root's {what} is not repeated"),
        why: "the nearest clippy.toml replaces the root one",
        hint: "copy the line from the root clippy.toml".to_owned(),
    }
}

fn no_clock_ban(path: &str, banned: &str) -> Finding {
    Finding {
        path: path.to_owned(),
        line: 1,
        rule: "clippy-file",
        what: format!("a pure crate does not ban `{banned}`"),
        why: "decisions take time, ids and chance as arguments",
        hint: "add it to `disallowed-methods`".to_owned(),
    }
}
