//! The fuzzing run that is guided by coverage: builds libFuzzer's program with the compiler's flags for it, and gives each
//! target its seconds. First it must find a planted mistake: a run that sees no coverage would find nothing and say so of all.
//!
//! What it learned stays in target/fuzz, so that the next run goes on from there.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::neighbour;

/// Where targets have their seeds: a folder each.
const SEEDS: &str = "tests/fuzz/seeds";
/// The target with a mistake in it.
const PLANTED: &str = "planted";
/// Longest time for that; it takes one or two.
const PLANTED_SECONDS: u32 = 60;
const PROGRAM: &str = "target/debug/galerne-fuzz";
const BUILD: [&str; 8] = [
    "build",
    "--quiet",
    "--locked",
    // The features of all packages together, as every other build has them, or the crates from outside were built again.
    "--workspace",
    "--bin",
    "galerne-fuzz",
    "--features",
    "galerne-fuzz/coverage",
];

/// Runs each target for `seconds`, or only those named, and says whether all held.
pub(crate) fn run(root: &Path, seconds: u32, only: &[&str]) -> Result<bool> {
    let mut build = neighbour::command("cargo");
    build.args(BUILD).current_dir(root).env("RUSTC_WORKSPACE_WRAPPER", root.join("make/with-coverage.sh"));
    if !build.status().context("start cargo")?.success() {
        bail!("the fuzzing program does not build");
    }
    let mut names = targets(root)?;
    if let Some(unknown) = only.iter().find(|name| !names.iter().any(|known| known == *name)) {
        bail!("no target `{unknown}`; hint: one of {}", names.join(", "));
    }
    names.retain(|name| only.is_empty() || only.contains(&name.as_str()));
    let (mut passed, mut failed) = (0, 0);
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    for names in names.chunks(at_once) {
        for (name, ran) in together(root, names, seconds) {
            let ran = ran?;
            let held = ran.found.is_some() == (name == PLANTED);
            report(name, &ran, held);
            (passed, failed) = if held { (passed + 1, failed) } else { (passed, failed + 1) };
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}

/// Runs a few targets at the same time.
fn together<'a>(root: &Path, names: &'a [String], seconds: u32) -> Vec<(&'a str, Result<Ran>)> {
    std::thread::scope(|scope| {
        let time = |name: &str| if name == PLANTED { PLANTED_SECONDS } else { seconds };
        let running: Vec<_> =
            names.iter().map(|name| (name.as_str(), scope.spawn(move || fuzz(root, name, time(name))))).collect();
        let ended = |run: std::thread::ScopedJoinHandle<'_, Result<Ran>>| run.join().expect("it returns its errors");
        running.into_iter().map(|(name, run)| (name, ended(run))).collect()
    })
}

/// The planted one first.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folders = std::fs::read_dir(root.join(SEEDS)).with_context(|| format!("read {SEEDS}"))?;
    let names: Result<Vec<String>> =
        folders.map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names?;
    names.sort_by_key(|name| (name != PLANTED, name.clone()));
    Ok(names)
}

/// What a run came to.
struct Ran {
    inputs: u64,
    edges: u64,
    /// The input that broke it.
    found: Option<PathBuf>,
    /// What it said.
    words: String,
}

fn fuzz(root: &Path, name: &str, seconds: u32) -> Result<Ran> {
    let folder = root.join("target/fuzz").join(name);
    let (known, wrong) = (folder.join("corpus"), folder.join("found-"));
    if name == PLANTED && known.exists() {
        // It is to be found anew each time.
        std::fs::remove_dir_all(&known)?;
    }
    std::fs::create_dir_all(&known).with_context(|| format!("make {}", known.display()))?;
    for old in std::fs::read_dir(&folder)? {
        let path = old?.path();
        if path.is_file() {
            std::fs::remove_file(path)?;
        }
    }
    let mut command = neighbour::command(&root.join(PROGRAM).display().to_string());
    command.args(["-seed=1", "-max_len=4096", "-timeout=10", "-rss_limit_mb=512", "-print_final_stats=1"]);
    command.arg(format!("-dict={}", folder.join("words.dict").display()));
    command.arg(format!("-artifact_prefix={}", wrong.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(&known).arg(root.join(SEEDS).join(name)).current_dir(root).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("start {PROGRAM}"))?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let found = std::fs::read_dir(&folder)?
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with("found-")));
    if !output.status.success() && found.is_none() {
        println!("{words}");
        bail!("{PROGRAM} ended with {} at `{name}`", output.status);
    }
    Ok(Ran { inputs: inputs(&words), edges: edges(&words), found, words })
}

fn report(name: &str, ran: &Ran, held: bool) {
    let Ran { inputs, edges, found, words } = ran;
    match (held, found) {
        (true, None) => println!("   ok      {name:<12} {inputs:>9} inputs, {edges:>5} edges"),
        (true, Some(_)) => println!("   ok      {name:<12} {inputs:>9} inputs until it was found"),
        (false, None) => println!("   FAILED  {name:<12} was not found in {inputs} inputs: the run is blind"),
        (false, Some(found)) => {
            println!("{words}");
            println!("   FAILED  {name:<12} by {}", found.display());
            println!("hint: make it small, then keep it as a seed, which every run checks:");
            println!("  {PROGRAM} -minimize_crash=1 -runs=200000 target/fuzz/{name}/corpus {}", found.display());
            println!("  cp MINIMISED {SEEDS}/{name}/WHAT-IT-IS");
        }
    }
}

/// `stat::number_of_executed_units: 43977`, or the last `#43977`.
fn inputs(words: &str) -> u64 {
    let stated = words.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let counted = words.lines().filter_map(|line| line.strip_prefix('#')?.split_whitespace().next()).next_back();
    stated.or(counted).and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

/// `#43977 DONE   cov: 320 ft: 900 …`
fn edges(words: &str) -> u64 {
    let said = words.lines().filter_map(|line| line.split_once(" cov: ")?.1.split_whitespace().next()?.parse().ok());
    said.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_says_is_read() {
        let words = "#2\tINITED cov: 12 ft: 13 corp: 1/1b\n#4096\tpulse  cov: 31 ft: 31 corp: 9/25b lim: 616\n";
        assert_eq!((inputs(words), edges(words)), (4096, 31));
        assert_eq!(inputs(&format!("{words}stat::number_of_executed_units: 5000\n")), 5000);
    }

    #[test]
    fn a_planted_mistake_is_looked_for_first() {
        let names = targets(&crate::workspace_root().unwrap()).unwrap();
        assert!(names.len() > 10 && names[0] == PLANTED, "{names:?}");
    }
}
