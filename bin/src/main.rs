//! The one binary: it parses arguments and starts what was asked.
//!
//! Deliberately absent: logic. Commands that talk to a server are in `galerne_cli`; what starts a server or works on its
//! files is wired here, because only here may server and agent meet.

mod gateway;
mod up;

mod host;
mod logs;

mod offline;
mod refusal;

use std::process::ExitCode;

use clap::Parser;
use galerne_api::error::Code;
use galerne_cli::{Arguments, Command, Failure, Global, Output, environment};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let Arguments { global, command, .. } = Arguments::parse();
    let installed = rustls::crypto::ring::default_provider().install_default();
    debug_assert!(installed.is_ok(), "this is the first thing the process does");
    let output = Output::of_process(global.output, global.quiet);
    ExitCode::from(run(command, &global, output))
}

fn run(command: Command, global: &Global, mut output: Output) -> u8 {
    // Only a server has work for several threads; a command starts faster without them.
    let builder = if matches!(command, Command::Up(_) | Command::Gateway(_)) {
        Builder::new_multi_thread
    } else {
        Builder::new_current_thread
    };
    let runtime = match builder().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(Code::Internal, "the system gives no threads").because_of(&error);
            return output.failure(&failure);
        }
    };
    let exit = dispatch(&runtime, command, global, output);
    // A thread that waits for a line of stdin must not hold the process.
    runtime.shutdown_background();
    exit
}

fn dispatch(runtime: &Runtime, command: Command, global: &Global, mut output: Output) -> u8 {
    let ended = match &command {
        Command::Up(arguments) => runtime.block_on(up::run(arguments)),
        Command::Gateway(arguments) => runtime.block_on(gateway::run(arguments, global.ca_file.as_deref())),
        Command::Restore(arguments) => runtime.block_on(offline::restore(arguments, &mut output)),
        Command::Migrate(arguments) => runtime.block_on(offline::migrate(arguments, &mut output)),
        Command::Config(command) => offline::config(command, &mut output),
        _ => return runtime.block_on(galerne_cli::run(command, global, output, &environment::config_folder())),
    };
    match ended.and_then(|()| output.flush()) {
        Ok(()) => 0,
        Err(failure) => output.failure(&failure),
    }
}
