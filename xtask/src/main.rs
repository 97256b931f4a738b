//! Project tasks that need more than a Makefile line: `tidy` (the rules of structure), `test` (all that `make test` runs),
//! `fuzz` (bad input, guided by coverage) and `bench` (the promised figures).
//!
//! Deliberately absent: anything a user of Galerne needs. This crate is never shipped.

#![allow(clippy::print_stdout, reason = "findings and step results on stdout are what this program is for")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

mod bench;
mod fuzz;
mod neighbour;
mod testing;
mod tidy;

const USAGE: &str = "usage: cargo xtask tidy [--warnings] | test [--full] | fuzz SECONDS [TARGET…] | bench";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            println!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode> {
    let root = workspace_root()?;
    let clean = match words {
        ["tidy"] => tidy::run(&root, tidy::Show::Failures)?,
        ["tidy", "--warnings"] => tidy::run(&root, tidy::Show::Warnings)?,
        ["test"] => testing::run(&root, testing::Extent::Change)?,
        ["test", "--full"] => testing::run(&root, testing::Extent::Full)?,
        ["fuzz", seconds, only @ ..] => fuzz::run(&root, seconds.parse().with_context(|| USAGE)?, only)?,
        ["bench"] => bench::run(&root)?,
        _ => bail!("{USAGE}"),
    };
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder above xtask's own: cargo runs us anywhere, the manifest folder is fixed at build time.
fn workspace_root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(manifest.parent().context("xtask lies inside the workspace")?.to_path_buf())
}
