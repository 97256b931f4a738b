//! `make bench`: the figures that are promised, measured in one run, each with its bound.
//!
//! Ratios come from neighbouring rounds of one run; absolute rates depend on the machine and on what else it does.
//! Deliberately absent: anything that is compared with a figure of another day.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

mod check_time;
mod program;
mod site;

use site::Site;

/// Megabytes of a control plane without worker.
const MEMORY_BOUND: f64 = 60.0;
/// Share of the bare engine's tokens per second that the whole path keeps.
const PATH_BOUND: f64 = 0.95;
/// Usage records settled per second, durably, on SQLite.
const SETTLE_BOUND: f64 = 20_000.0;
/// Seconds to check ten million records.
const LEDGER_CHECK_BOUND: f64 = 10.0;
/// Seconds of a warm `cargo check` after an edit in `core`.
const CHECK_BOUND: f64 = 5.0;

/// One figure and what was promised about it.
struct Figure {
    name: String,
    value: f64,
    bound: Bound,
    /// What else a reader wants to know.
    note: String,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    fn is_kept(&self) -> bool {
        match self.bound {
            Bound::AtLeast(least) => self.value >= least,
            Bound::AtMost(most) => self.value <= most,
        }
    }
}

/// Measures everything and says whether every bound is kept.
pub(crate) fn run(root: &Path) -> Result<bool> {
    program::build(root)?;
    let mut figures = vec![memory(root)?];
    figures.extend(paths(root)?);
    figures.extend(ledger(root)?);
    figures.push(check_time(root)?);
    Ok(report(&figures))
}

fn memory(root: &Path) -> Result<Figure> {
    println!("== memory of the control plane, no model served");
    let site = Site::start(root, &["--no-model"])?;
    let megabytes = site.resident_megabytes()?;
    site.stop()?;
    Ok(Figure {
        name: "control plane without worker, MB resident".to_owned(),
        value: megabytes,
        bound: Bound::AtMost(MEMORY_BOUND),
        note: String::new(),
    })
}

/// The worker through the gateway against the bare loop, in turn within one run.
fn paths(root: &Path) -> Result<Vec<Figure>> {
    println!("== tokens per second through the whole path, against the bare engine");
    let site = Site::start(root, &[])?;
    let mut figures = Vec::new();
    for (name, mode, sequences, tokens) in
        [("1 sequence", "tg", "1", "128"), ("8 sequences", "tg", "8", "64"), ("prompt", "pp", "1", "512")]
    {
        let endpoint = site.endpoint_with(8)?;
        let report = program::worker_bench(root, &site, &endpoint, &[mode, sequences, tokens])?;
        let number = |key: &str| report[key].as_f64().with_context(|| format!("`{key}` in {report}"));
        let (bare, through) = (number("bare_tokens_per_second")?, number("through_tokens_per_second")?);
        figures.push(Figure {
            name: format!("whole path / bare engine, {name}"),
            value: number("ratio")?,
            bound: Bound::AtLeast(PATH_BOUND),
            note: format!("{through:.0} against {bare:.0} tokens/s, {} threads", report["threads"]),
        });
    }
    site.stop()?;
    Ok(figures)
}

fn ledger(root: &Path) -> Result<Vec<Figure>> {
    println!("== the ledger: settling, and a check over ten million records");
    let report = program::ledger_bench(root)?;
    let number = |key: &str| report[key].as_f64().with_context(|| format!("`{key}` in {report}"));
    let ratio = number("settle_to_peer_ratio")?;
    // The first records fall into an empty file: what is promised must also hold while it grows to ten million.
    let (first, rest) = (number("settle_records_per_second")?, number("settle_rest_records_per_second")?);
    Ok(vec![
        Figure {
            name: "usage records settled per second, SQLite".to_owned(),
            value: first.min(rest),
            bound: Bound::AtLeast(SETTLE_BOUND),
            note: format!("{first:.0} into an empty file, {rest:.0} up to ten million; {ratio:.2} of bare insertions"),
        },
        Figure {
            name: "check of ten million records, seconds".to_owned(),
            value: number("check_seconds")?,
            bound: Bound::AtMost(LEDGER_CHECK_BOUND),
            note: format!("{} records", report["check_records"]),
        },
    ])
}

fn check_time(root: &Path) -> Result<Figure> {
    println!("== warm cargo check after an edit in core");
    Ok(Figure {
        name: "cargo check after an edit in core, seconds".to_owned(),
        value: check_time::seconds(root)?,
        bound: Bound::AtMost(CHECK_BOUND),
        note: "median of 3, whole workspace, one file touched".to_owned(),
    })
}

fn report(figures: &[Figure]) -> bool {
    println!("\n== figures");
    for figure in figures {
        let (mark, bound) = match (&figure.bound, figure.is_kept()) {
            (Bound::AtLeast(least), true) => ("kept  ", format!("at least {least}")),
            (Bound::AtMost(most), true) => ("kept  ", format!("at most {most}")),
            (Bound::AtLeast(least), false) => ("MISSED", format!("at least {least}")),
            (Bound::AtMost(most), false) => ("MISSED", format!("at most {most}")),
        };
        println!("   {mark} {:>12.2}  {:<46} {bound:<16} {}", figure.value, figure.name, figure.note);
    }
    figures.iter().all(Figure::is_kept)
}

/// The last line of a program's output, as JSON.
fn last_json(output: &str) -> Result<Value> {
    let line = output.lines().last().context("it printed nothing")?;
    let value: Value = serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
    ensure!(value.is_object(), "not an object: {line}");
    if value["ready"] == Value::Bool(false) {
        bail!("{}: {}", value["code"], value["message"]);
    }
    Ok(value)
}
