//! Replays of published workloads and of our own, each against its peers: what the planner is worth, in numbers.
//!
//! Reads a data folder, prints a table, writes a CSV file and drawings for each benchmark. Ends with failure when a
//! promised bound was missed, naming it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tables on stdout are what this program is for")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use clap::Parser;

mod b1;
mod b3;
mod b4;
mod b5;
mod b6;
mod openb;

mod random;
mod table;
mod timing;

use table::Table;

/// Measures the planner against published figures and peers.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with `openb/`, `carbon/`, `power/`, `ops/`; `../shared/data` when absent.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder for CSV files and drawings.
    #[arg(long, default_value = "target/bench-planner")]
    out: PathBuf,
    /// Which of b1, b3, b4, b5, b6, separated by commas; all when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Prints the memory that one fleet's planner needs, in MiB: b5 starts this program again for it.
    #[arg(long, hide = true)]
    memory_of: Option<String>,
    /// Prints the times of one of b5's fleets, `S2` or `S3`, and nothing else; `S2:passes`, `S2:events` and
    /// `S2:preemption` print a part of them, for a profiler.
    #[arg(long, hide = true)]
    speed_of: Option<String>,
    /// Prints the figures of one of b5's replays, `FLEET:LOAD:SCHEDULER`, with `:DAYS` and `:SEED` if
    /// wanted, and nothing else.
    #[arg(long, hide = true)]
    replay_of: Option<String>,
}

/// One benchmark: reads the data folder, writes into the out folder.
struct Benchmark {
    name: &'static str,
    /// What it reads below the data folder.
    needs: &'static [&'static str],
    run: fn(&Path, &Path) -> Result<Table>,
}

const ALL: [Benchmark; 5] = [
    Benchmark { name: "b1", needs: &["openb"], run: b1::run },
    Benchmark { name: "b3", needs: &["carbon"], run: b3::run },
    Benchmark { name: "b4", needs: &["openb", "power"], run: b4::run },
    Benchmark { name: "b5", needs: &[], run: b5::run },
    Benchmark { name: "b6", needs: &["ops"], run: b6::run },
];

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let shown = |table: Table| {
        println!("{}", table.text());
        table.missed()
    };
    let missed = match (&arguments.memory_of, &arguments.speed_of, &arguments.replay_of) {
        (Some(fleet), ..) => b5::resident_memory(fleet).map(|mib| {
            println!("{mib:.1}");
            Vec::new()
        }),
        (None, Some(fleet), _) => b5::times(fleet).map(shown),
        (None, None, Some(which)) => b5::one_replay(which).map(shown),
        (None, None, None) => run(&arguments),
    };
    match missed {
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            for one in missed {
                println!("missed: {one}");
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs what was asked for and returns every missed bound, in words.
fn run(arguments: &Arguments) -> Result<Vec<String>> {
    let chosen = chosen(&arguments.only)?;
    let data = data_folder(arguments.data.as_deref(), &chosen)?;
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot make the folder `{}`", arguments.out.display()))?;
    let started = Instant::now();
    let mut missed = Vec::new();
    for benchmark in &chosen {
        let begun = Instant::now();
        let table = (benchmark.run)(&data, &arguments.out).with_context(|| format!("{} failed", benchmark.name))?;
        println!("{}  {} took {:.1} s\n", table.text(), benchmark.name, begun.elapsed().as_secs_f64());
        missed.extend(table.missed().into_iter().map(|one| format!("{} {one}", benchmark.name)));
    }
    println!("total {:.1} s; files in `{}`", started.elapsed().as_secs_f64(), arguments.out.display());
    Ok(missed)
}

/// The benchmarks of `--only`, in the order of `ALL`.
fn chosen(only: &[String]) -> Result<Vec<&'static Benchmark>> {
    let words: Vec<String> =
        only.iter().map(|word| word.trim().to_lowercase()).filter(|word| !word.is_empty()).collect();
    if let Some(unknown) = words.iter().find(|word| ALL.iter().all(|benchmark| benchmark.name != **word)) {
        let names: Vec<&str> = ALL.iter().map(|benchmark| benchmark.name).collect();
        bail!("there is no benchmark `{unknown}`\nhint: ONLY={} are all there are", names.join(","));
    }
    let is_chosen = |benchmark: &&Benchmark| words.is_empty() || words.iter().any(|word| word == benchmark.name);
    Ok(ALL.iter().filter(is_chosen).collect())
}

/// The folder to read, with everything in it that the chosen benchmarks need.
fn data_folder(given: Option<&Path>, chosen: &[&Benchmark]) -> Result<PathBuf> {
    const USUAL: &str = "../shared/data";
    const HINT: &str = "hint: make bench-planner DATA=FOLDER, a folder with openb/, carbon/, power/ and ops/";
    let needs: Vec<&str> = chosen.iter().flat_map(|benchmark| benchmark.needs).copied().collect();
    let folder = given.unwrap_or_else(|| Path::new(USUAL));
    if needs.is_empty() && given.is_none() {
        return Ok(folder.to_owned());
    }
    if !folder.is_dir() {
        let why =
            if given.is_some() { "there is no folder" } else { "no data folder was given, and there is no folder" };
        bail!("{why} `{}`\n{HINT}", folder.display());
    }
    if let Some(missing) = needs.iter().find(|need| !folder.join(need).is_dir()) {
        bail!("the data folder `{}` has no folder `{missing}`\n{HINT}", folder.display());
    }
    Ok(folder.to_owned())
}

#[cfg(test)]
mod tests;
