//! All that `make test` runs after installing: checks, build, tests, clients; with a duration per step
//! and one closing line that counts.
//!
//! A failing step does not stop the ones that do not need it: one run shows everything that is wrong.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{neighbour, tidy};

mod steps;

#[cfg(test)]
mod tests;

use steps::{Counted, Step};

/// How much is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What every change must pass.
    Change,
    /// Also what takes long: the heavy rigs.
    Full,
}

/// Tests that passed and failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    passed: usize,
    failed: usize,
}

/// What a step left behind.
struct Outcome {
    title: &'static str,
    duration: Duration,
    tally: Tally,
}

/// Runs the steps in order and says whether everything passed.
pub(crate) fn run(root: &Path, extent: Extent) -> Result<bool> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut broken: Vec<&'static str> = Vec::new();
    for step in steps::all(root, extent) {
        let outcome = match step.needs.iter().find(|need| broken.contains(need)) {
            Some(need) => skipped(&step, need),
            None => perform(root, &step)?,
        };
        if outcome.tally.failed > 0 {
            broken.push(step.title);
        }
        outcomes.push(outcome);
    }
    Ok(close(&outcomes))
}

fn skipped(step: &Step, need: &str) -> Outcome {
    println!("\n== {}: not run, because `{need}` failed", step.title);
    Outcome { title: step.title, duration: Duration::ZERO, tally: Tally { passed: 0, failed: 1 } }
}

fn perform(root: &Path, step: &Step) -> Result<Outcome> {
    println!("\n== {}", step.title);
    let started = Instant::now();
    let tally = match &step.counted {
        Counted::Tidy => one(tidy::run(root, tidy::Show::Failures)?),
        Counted::AsOne => one(execute(root, step, None)?.0),
        Counted::BySummary(read) => {
            let (succeeded, tally) = execute(root, step, Some(*read))?;
            counted(succeeded, tally)
        }
    };
    Ok(Outcome { title: step.title, duration: started.elapsed(), tally })
}

fn one(succeeded: bool) -> Tally {
    Tally { passed: usize::from(succeeded), failed: usize::from(!succeeded) }
}

/// A runner that ends badly without counting a failure has failed once: it did not build, or was killed.
fn counted(succeeded: bool, tally: Tally) -> Tally {
    let nothing_ran = tally.passed == 0;
    if (succeeded && !nothing_ran) || tally.failed > 0 {
        return tally;
    }
    Tally { passed: tally.passed, failed: 1 }
}

/// Runs the step's commands one after the other, passes their output on, and adds up the summaries in it.
fn execute(root: &Path, step: &Step, read: Option<fn(&str) -> Option<Tally>>) -> Result<(bool, Tally)> {
    let mut tally = Tally::default();
    for words in &step.commands {
        println!("   {}", words.join(" "));
        let (program, arguments) = words.split_first().context("a command has a program")?;
        let (reader, writer) = std::io::pipe().context("make a pipe")?;
        let mut command = neighbour::command(program);
        command.args(arguments).current_dir(root).stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
        command.envs(step.environment.iter().map(|(name, value)| (*name, value)));
        let mut child = command.spawn().with_context(|| format!("start {program}"))?;
        // Our copies of the writing end, or the reader would never see the end.
        drop(command);
        for line in BufReader::new(reader).split(b'\n') {
            let line = String::from_utf8_lossy(&line.context("read output")?).into_owned();
            println!("{line}");
            let counts = read.and_then(|read| read(&line)).unwrap_or_default();
            tally = Tally { passed: tally.passed + counts.passed, failed: tally.failed + counts.failed };
        }
        std::io::stdout().flush().context("write output")?;
        if !child.wait().context("wait for the command")?.success() {
            return Ok((false, tally));
        }
    }
    Ok((true, tally))
}

/// Prints durations and the closing line.
fn close(outcomes: &[Outcome]) -> bool {
    println!("\n== durations");
    for outcome in outcomes {
        let mark = if outcome.tally.failed == 0 { "ok    " } else { "FAILED" };
        println!("   {mark} {:>7.1} s  {}", outcome.duration.as_secs_f64(), outcome.title);
    }
    let passed: usize = outcomes.iter().map(|outcome| outcome.tally.passed).sum();
    let failed: usize = outcomes.iter().map(|outcome| outcome.tally.failed).sum();
    println!("\n{passed} passed, {failed} failed");
    failed == 0
}
