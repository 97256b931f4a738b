//! How long a warm `cargo check` takes after an edit in `core`.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use crate::neighbour;

const ROUNDS: usize = 3;

/// A line at the end of a file, taken out again when this is dropped.
struct Edit {
    path: PathBuf,
    line: String,
}

impl Edit {
    /// A public constant with a value that no earlier round had: the crates above see another `core`, which a new
    /// modification time alone would not give them.
    fn make(path: PathBuf) -> Result<Self> {
        let value = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("read the clock")?.as_nanos();
        let line = format!("\n#[doc(hidden)]\npub const EDITED_BY_A_MEASUREMENT: u128 = {value};\n");
        let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let edit = Self { path, line };
        fs::write(&edit.path, text + &edit.line).with_context(|| format!("edit {}", edit.path.display()))?;
        Ok(edit)
    }

    fn undo(&self) -> Result<()> {
        let text = fs::read_to_string(&self.path)?;
        ensure!(text.contains(&self.line), "somebody else changed it meanwhile");
        fs::write(&self.path, text.replacen(&self.line, "", 1))?;
        Ok(())
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            let path = self.path.display();
            let told = writeln!(io::stderr(), "take EDITED_BY_A_MEASUREMENT out of {path} by hand: {error:#}");
            drop(told);
        }
    }
}

/// Median seconds.
pub(super) fn seconds(root: &Path) -> Result<f64> {
    check(root)?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let edit = Edit::make(root.join("crates/core/src/lib.rs"))?;
        let started = Instant::now();
        check(root)?;
        rounds.push(started.elapsed().as_secs_f64());
        drop(edit);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[ROUNDS / 2])
}

fn check(root: &Path) -> Result<()> {
    let status =
        neighbour::command("cargo").args(["check", "--quiet"]).current_dir(root).status().context("run cargo")?;
    ensure!(status.success(), "cargo check ended with {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_changes_what_others_see_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("lib.rs");
        fs::write(&path, "pub fn first() {}\n").expect("a file");
        let edited = || {
            let edit = Edit::make(path.clone()).expect("a writable file");
            let text = fs::read_to_string(&path).expect("a file");
            drop(edit);
            text
        };
        let (one, two) = (edited(), edited());
        assert!(one.contains("pub const") && one != two, "{one}{two}");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "pub fn first() {}\n");
    }
}
