//! Where log lines go: JSON on stderr for programs, text for people.
//!
//! At a terminal the phases of `up` are what a person reads: everything is written to a file, and only what is unexpected
//! is shown. `--log` says otherwise.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::path::Path;

use galerne_api::error::Code;
use galerne_cli::Failure;
use galerne_cli::up::phases::Phases;
use galerne_server::config::{Config, LogFormat};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Size past which a start begins a new file and keeps the last one: days of a busy server.
const FILE_MAX_BYTES: u64 = 64 * 1024 * 1024;

/// Sends log lines where the configuration says.
pub(crate) fn start(config: &Config, phases: &Phases) -> Result<(), Failure> {
    let at_terminal = io::stderr().is_terminal();
    match config.log {
        LogFormat::Json => json_to(io::stderr),
        LogFormat::Text => {
            tracing_subscriber::registry()
                .with(fmt::layer().with_writer(Above(phases.clone())).with_filter(LevelFilter::INFO))
                .init();
        }
        LogFormat::Auto if at_terminal => {
            let file = open(&config.data.join("logs"))?;
            let all = fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::sync::Arc::new(file))
                .with_filter(LevelFilter::INFO);
            let unexpected = fmt::layer()
                .without_time()
                .with_target(false)
                .with_writer(Above(phases.clone()))
                .with_filter(LevelFilter::WARN);
            tracing_subscriber::registry().with(all).with(unexpected).init();
        }
        LogFormat::Auto => json_to(io::stderr),
    }
    Ok(())
}

fn json_to(writer: fn() -> io::Stderr) {
    let all = fmt::layer().json().flatten_event(true).with_writer(writer).with_filter(LevelFilter::INFO);
    tracing_subscriber::registry().with(all).init();
}

fn open(folder: &Path) -> Result<File, Failure> {
    let path = folder.join("galerne.log");
    let opened = std::fs::create_dir_all(folder).and_then(|()| {
        if std::fs::metadata(&path).is_ok_and(|file| file.len() > FILE_MAX_BYTES) {
            std::fs::rename(&path, path.with_extension("log.1"))?;
        }
        OpenOptions::new().create(true).append(true).open(&path)
    });
    opened.map_err(|error| {
        Failure::new(Code::DataDirUnusable, format!("the log file `{}` cannot be opened", path.display()))
            .because_of(&error)
    })
}

/// Writes lines to stderr above the phase that is living on stdout.
struct Above(Phases);

/// One line on its way; a line is written whole.
struct Line<'a>(&'a Phases);

impl<'a> MakeWriter<'a> for Above {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line(&self.0)
    }
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.beside(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
