//! Galerne's gateway against its peers, measured interleaved in one run.
//!
//! `quick` prints the figures of the data path in under a minute. Load client, mocks and gateways share one machine, so
//! absolute figures are of that machine and hour; what is compared are ratios within one run, and processor time.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "tables on stdout are what this program is for")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

mod quick;
mod whole;

mod curves;
mod faults;
mod steps;

mod figure;
mod table;

mod load;
mod peers;
mod site;

mod call;
mod mock;
mod programs;
mod stats;
mod wire;

use peers::{Peer, Places};
use whole::Amounts;

/// Measures the gateway against its peers.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Added latency, requests per second, processor time per request and per event, in under a minute.
    Quick(Choices),
    /// The whole table, with faults and memory; drawings and CSV files. Fails when a bar was missed.
    Run {
        #[command(flatten)]
        choices: Choices,
        /// Which parts, separated by commas; all when absent.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Prompts that share nothing, for memory.
        #[arg(long, default_value_t = 1_000_000)]
        prompts: u64,
        /// Longest time for them, of each gateway.
        #[arg(long, default_value_t = 120.0)]
        prompts_seconds: f64,
    },
    /// The model server without a model that the others start; until it is killed.
    Mock {
        /// Port to listen on, on this machine only.
        #[arg(long)]
        port: u16,
    },
}

#[derive(Debug, Args)]
struct Choices {
    /// The program under test.
    #[arg(long, default_value = "target/release/galerne")]
    galerne: PathBuf,
    /// Folder with one Python environment for each peer that is written in Python or comes as a wheel.
    #[arg(long, default_value = "target/bench-gateway/peers")]
    environments: PathBuf,
    /// Folder for logs, results and the site.
    #[arg(long, default_value = "target/bench-gateway")]
    out: PathBuf,
    /// Whom to measure beside the mock alone, separated by commas.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Rounds; each visits everybody, and medians are told.
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    /// Seconds of one load in one round.
    #[arg(long, default_value_t = 1.5)]
    seconds: f64,
}

impl Choices {
    fn places(&self) -> Result<Places> {
        ensure!(
            self.galerne.exists(),
            "there is no `{}`\nhint: cargo build --release -p galerne, or --galerne FILE",
            self.galerne.display()
        );
        std::fs::create_dir_all(&self.out)?;
        Ok(Places {
            galerne: self.galerne.clone(),
            environments: self.environments.clone(),
            folder: self.out.canonicalize()?,
        })
    }

    /// The mock alone first, then whom was asked for; `usual` when nobody was.
    fn peers(&self, usual: &[Peer]) -> Result<Vec<Peer>> {
        let words: Vec<&str> = self.peers.iter().map(|word| word.trim()).filter(|word| !word.is_empty()).collect();
        let named: Vec<Peer> = words.into_iter().map(Peer::named).collect::<Result<_>>()?;
        let mut peers = vec![Peer::Direct];
        let asked = if named.is_empty() { usual } else { &named };
        peers.extend(asked.iter().filter(|peer| **peer != Peer::Direct));
        Ok(peers)
    }
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Mock { port } => mock::run(port).map(|()| Vec::new()),
        Command::Quick(choices) => quick(&choices).map(|()| Vec::new()),
        Command::Run { choices, only, prompts, prompts_seconds } => {
            let (rounds, seconds) = (choices.rounds, choices.seconds);
            run(&choices, &only, Amounts { rounds, seconds, prompts, prompts_seconds })
        }
    };
    match done {
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            missed.iter().for_each(|one| println!("missed: {one}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn quick(choices: &Choices) -> Result<()> {
    let peers = choices.peers(&[Peer::Galerne, Peer::Nginx, Peer::Haproxy])?;
    quick::measure(&choices.places()?, &peers, choices.rounds, choices.seconds)
}

fn run(choices: &Choices, only: &[String], amounts: Amounts) -> Result<Vec<String>> {
    let parts = whole::parts(only)?;
    whole::measure(&choices.places()?, &choices.peers(&peers::ALL)?, &parts, amounts)
}
