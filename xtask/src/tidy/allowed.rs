//! `xtask/allowed.toml`: the places where a rule does not hold, each with its reason. The list may only shrink.

use anyhow::{Context, Result};

use super::Finding;
use super::tree::Tree;

const PATH: &str = "xtask/allowed.toml";

/// Entries the list may hold. Lower it when one is removed; raising it is what a review must refuse.
pub(crate) const CEILING: usize = 24;

/// The parsed list.
#[derive(Debug, Default)]
pub(crate) struct Allowed {
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    path: String,
    what: String,
    why: String,
}

/// Reads the list; a tree without one allows nothing.
pub(crate) fn read(tree: &Tree) -> Result<Allowed> {
    let Some(text) = tree.text(PATH) else { return Ok(Allowed::default()) };
    let document: toml::Table = text.parse().with_context(|| format!("parse {PATH}"))?;
    let Some(rows) = document.get("allow") else { return Ok(Allowed::default()) };
    let rows = rows.as_array().with_context(|| format!("{PATH}: `allow` is a list of tables"))?;
    let mut entries = Vec::new();
    for row in rows {
        let field = |name: &str| {
            let value = row.get(name).and_then(toml::Value::as_str);
            value.map(str::to_owned).with_context(|| format!("{PATH}: every entry has a text `{name}`"))
        };
        entries.push(Entry { path: field("path")?, what: field("what")?, why: field("why")? });
    }
    Ok(Allowed { entries })
}

impl Allowed {
    /// Takes out what is allowed; adds a finding for each entry that allows nothing, and for a list that grew.
    pub(crate) fn filter(&self, findings: Vec<Finding>) -> Vec<Finding> {
        let mut used = vec![false; self.entries.len()];
        let mut kept = Vec::new();
        for finding in findings {
            let at = self.entries.iter().position(|entry| {
                entry.path == finding.path && finding.what.contains(&entry.what) && !entry.why.is_empty()
            });
            match at {
                Some(index) => used[index] = true,
                None => kept.push(finding),
            }
        }
        for (entry, used) in self.entries.iter().zip(used) {
            if !used {
                kept.push(stale(entry));
            }
        }
        if self.entries.len() > CEILING {
            kept.push(grown(self.entries.len()));
        }
        kept
    }
}

fn stale(entry: &Entry) -> Finding {
    Finding {
        path: PATH.to_owned(),
        line: 1,
        rule: "allowed",
        what: format!("`{}` no longer uses {}", entry.path, entry.what),
        why: "the list of exceptions only shrinks when entries without use leave it",
        hint: "delete the entry and lower `CEILING` in xtask/src/tidy/allowed.rs".to_owned(),
    }
}

fn grown(count: usize) -> Finding {
    Finding {
        path: PATH.to_owned(),
        line: 1,
        rule: "allowed",
        what: format!("{count} entries, at most {CEILING} may be"),
        why: "the list of exceptions may only shrink",
        hint: "do without the new exception".to_owned(),
    }
}
