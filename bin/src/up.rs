//! `galerne up`: the server with this host's facts and energy, and the first steps on its own API.
//!
//! Ctrl-C or SIGTERM drains: requests in flight are finished, then everything stops. A second one ends the process at once.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;
use std::time::Instant;

use galerne_api::error::Code;
use galerne_cli::up::phases::{Phase, Phases};
use galerne_cli::up::{self, Site, UpArguments};
use galerne_cli::{Failure, Profile, environment};
use galerne_server::config;
use galerne_server::config::Config;
use galerne_server::{Progress, Running};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{host, logs, offline, refusal};

/// Name of the key that a start makes when it knows none that works.
const MINTED_KEY: &str = "up";

/// Runs the server until it is told to stop.
pub(crate) async fn run(arguments: &UpArguments) -> Result<(), Failure> {
    let begun = Instant::now();
    let config = offline::configuration(&arguments.server)?;
    if !arguments.no_model {
        host::check_worker(&config)?;
    }
    let phases = Phases::of_process();
    logs::start(&config, &phases)?;
    let mut stop = Stop::new()?;
    let mut running = listen(&config, &phases).await?;
    let site = Site {
        url: arguments.public_url.clone().unwrap_or_else(|| reachable(&running)),
        first_key: running.first_key.clone(),
        ca_file: config.tls.map(|tls| tls.cert),
        listens_after: begun.elapsed(),
    };
    let folder = environment::config_folder();
    let mint = async || running.mint_key(MINTED_KEY).await.map_err(|error| refusal::start(&error));
    let profile = up::keep_profile(&phases, arguments, &folder, &site, mint).await;
    let ended = tokio::select! {
        failure = serve(&phases, arguments, &folder, &site, profile) => Err(failure),
        () = stop.asked() => Ok(()),
        error = running.failed() => Err(refusal::start(&error)),
    };
    drain(running, &phases, &mut stop).await;
    ended
}

/// Where this machine reaches a server: one that listens everywhere listens on the loopback too.
fn reachable(running: &Running) -> String {
    let (scheme, port) = (running.url.split(':').next().unwrap_or("http"), running.address.port());
    match running.address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => format!("{scheme}://{}:{port}", Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => format!("{scheme}://[{}]:{port}", Ipv6Addr::LOCALHOST),
        _ => running.url.clone(),
    }
}

/// Opens and starts everything; each part is a line.
async fn listen(config: &Config, phases: &Phases) -> Result<Running, Failure> {
    let living: Mutex<Option<Phase>> = Mutex::new(None);
    let host = host::read(config);
    let hardware = host.hardware;
    let tell = |progress: Progress| {
        let mut living = living.lock().expect("no line panics");
        match progress {
            Progress::Begun(part) => *living = Some(phases.begin(doing(part))),
            Progress::Done(part, found) => {
                if let Some(phase) = living.take() {
                    phase.done(done(part, &found, &hardware));
                }
            }
        }
    };
    galerne_server::start(config, host.source, &config::environment(), &tell)
        .await
        .map_err(|error| refusal::start(&error))
}

fn doing(part: galerne_server::Phase) -> &'static str {
    use galerne_server::Phase;
    match part {
        Phase::Claim => "Taking the address and the data directory",
        Phase::OpenState => "Opening the state",
        Phase::FirstStart => "Looking for the operator",
        Phase::EnrolHost => "Enrolling this host",
        Phase::StartLoops => "Starting",
    }
}

fn done(part: galerne_server::Phase, found: &str, hardware: &str) -> String {
    use galerne_server::Phase;
    match part {
        Phase::Claim => format!("Data in {found}"),
        Phase::OpenState => format!("State in {found}"),
        Phase::FirstStart => format!("Site: {found}"),
        Phase::EnrolHost => format!("Host {found} enrolled: {hardware}"),
        Phase::StartLoops => format!("Listening on {found}"),
    }
}

/// The first steps, then nothing until somebody stops the server. Ends only with a failure that ends the server.
async fn serve(
    phases: &Phases,
    arguments: &UpArguments,
    folder: &std::path::Path,
    site: &Site,
    profile: Result<Profile, Failure>,
) -> Failure {
    let done = match profile {
        Ok(profile) => up::first_steps(phases, arguments, folder, site, profile).await,
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => std::future::pending().await,
        // A script waits for the ready file: it is told by the exit code that there will be none.
        Err(failure) if arguments.ready_file.is_some() => failure,
        Err(failure) => {
            phases.line(failure.render());
            phases.line(format!("  the server goes on at {}; Ctrl-C stops it", site.url));
            std::future::pending().await
        }
    }
}

async fn drain(running: Running, phases: &Phases, stop: &mut Stop) {
    // The terminal has echoed ^C where the line would begin.
    phases.line("");
    let phase = phases.begin("Finishing the requests in flight; Ctrl-C again stops at once");
    tokio::select! {
        () = running.drain() => phase.done("Stopped"),
        () = stop.asked() => phase.failed("Stopped at once"),
    }
}

/// Ctrl-C and SIGTERM.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
    _file_too_large: Signal,
}

impl Stop {
    pub(crate) fn new() -> Result<Self, Failure> {
        let signal = |kind| {
            signal(kind).map_err(|error| Failure::new(Code::Internal, "signals cannot be received").because_of(&error))
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            // Where files have a largest size (`ulimit -f`), a write beyond it would end the process and not fail; the spool
            // waits for room when a write fails.
            _file_too_large: signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?,
        })
    }

    /// Waits until somebody asks to stop.
    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
