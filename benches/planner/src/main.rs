//! Replays of published workloads and of our own, each against its peers: what the planner is worth, in numbers.
//!
//! Reads a data folder, prints a table, writes a CSV file and a drawing for each benchmark.
#![allow(clippy::print_stdout, reason = "tables on stdout are what this program is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

mod b1;
mod b3;
mod b4;
mod b5;
mod b6;
mod chart;
mod random;
mod table;

/// What is run on what.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with `openb/`, `carbon/`, `power/`, `ops/`.
    #[arg(long)]
    data: PathBuf,
    /// Folder for CSV files and drawings.
    #[arg(long)]
    out: PathBuf,
    /// Which of b1, b3, b4, b5, b6; all when absent.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// One benchmark: reads the data folder, writes into the out folder, says whether every bound held.
type Benchmark = fn(&std::path::Path, &std::path::Path) -> Result<bool>;

const ALL: [(&str, Benchmark); 5] =
    [("b1", b1::run), ("b3", b3::run), ("b4", b4::run), ("b5", b5::run), ("b6", b6::run)];

fn run(arguments: &Arguments) -> Result<bool> {
    std::fs::create_dir_all(&arguments.out)?;
    let mut every_bound_held = true;
    for (name, benchmark) in ALL {
        if arguments.only.is_empty() || arguments.only.iter().any(|only| only == name) {
            every_bound_held &= benchmark(&arguments.data, &arguments.out)?;
        }
    }
    Ok(every_bound_held)
}
