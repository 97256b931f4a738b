//! `galerne gateway`: a gateway in a process of its own.
//!
//! Ctrl-C or SIGTERM drains: requests in flight are finished, what they used is shipped, then it says goodbye. A second
//! one ends the process at once; the next start ships the rest.

use std::fs;
use std::path::Path;

use galerne_api::client::Client;
use galerne_api::error::Code;
use galerne_cli::up::phases::Phases;
use galerne_cli::{Failure, GatewayArguments};
use galerne_server::config::{self, Config, Layers};
use galerne_server::gateway_process::{self, RunningGateway};

use crate::up::Stop;
use crate::{logs, refusal};

/// Folder of a gateway below the data directory of `galerne up`.
const FOLDER: &str = "gateway";

/// Runs a gateway until it is told to stop.
pub(crate) async fn run(arguments: &GatewayArguments, ca_file: Option<&Path>) -> Result<(), Failure> {
    let config = configuration(arguments)?;
    let client = client(arguments, ca_file)?;
    let phases = Phases::of_process();
    logs::start(&config, &phases)?;
    let mut stop = Stop::new()?;
    let mut running = tokio::select! {
        running = start(&config, client, arguments, &phases) => running?,
        () = stop.asked() => return Ok(()),
    };
    if let Some(path) = &arguments.ready_file {
        tell_ready(path, &running.url)?;
    }
    let ended = tokio::select! {
        () = stop.asked() => Ok(()),
        error = running.failed() => Err(refusal::start(&error)),
    };
    phases.line("");
    let phase = phases.begin("Finishing the requests in flight; Ctrl-C again stops at once");
    tokio::select! {
        () = running.drain() => phase.done("Stopped"),
        () = stop.asked() => phase.failed("Stopped at once"),
    }
    ended
}

async fn start(
    config: &Config,
    client: Client,
    arguments: &GatewayArguments,
    phases: &Phases,
) -> Result<RunningGateway, Failure> {
    let control = client.base().to_string();
    let phase = phases.begin(format!("Joining {control}"));
    let waits = phases.clone();
    let told = std::sync::atomic::AtomicBool::new(false);
    let tell = move |error: &galerne_server::LinkError| {
        tracing::warn!(error = %error, cause = error.cause(), "the control plane is tried again");
        if !told.swap(true, std::sync::atomic::Ordering::Relaxed) {
            waits.line(format!("  {error}: {}; it is tried again until it answers", error.cause()));
        }
    };
    let running = gateway_process::start(config, client, arguments.name.clone(), &tell).await;
    let running = running.map_err(|error| refusal::start(&error))?;
    phase.done(format!("Joined {control}, listening on {}", running.url));
    Ok(running)
}

fn configuration(arguments: &GatewayArguments) -> Result<Config, Failure> {
    let environment = config::environment();
    let bad = |bad: config::BadConfig| refusal::configuration(&bad);
    let known = Layers::read(None, &environment, &[]).map_err(bad)?;
    let data = known.user_data().map(|data| Path::new(data).join(FOLDER).display().to_string()).unwrap_or_default();
    let layers = Layers::read(None, &environment, &arguments.flags(data)).map_err(bad)?;
    Config::from_layers(&layers).map_err(bad)
}

fn client(arguments: &GatewayArguments, ca_file: Option<&Path>) -> Result<Client, Failure> {
    let unreadable = |path: &Path, error: std::io::Error| {
        Failure::new(Code::ConfigInvalid, format!("`{}` cannot be read", path.display())).because_of(&error)
    };
    let key = fs::read_to_string(&arguments.key_file).map_err(|error| {
        unreadable(&arguments.key_file, error)
            .hint("make a key, as an operator: galerne key create NAME --scope gateway")
    })?;
    let ca = ca_file.map(|path| fs::read(path).map_err(|error| unreadable(path, error))).transpose()?;
    let client = Client::new(&arguments.control, Some(key.trim().to_owned()), ca.as_deref())?;
    if !client.is_protected() {
        let text = format!(
            "`{}` is on another machine and not https: keys would cross the network unprotected",
            arguments.control
        );
        return Err(Failure::new(Code::ConfigInvalid, text)
            .hint("start the control plane with `--tls-cert FILE --tls-key FILE`, and give its https address"));
    }
    Ok(client)
}

/// A whole file appears, or none.
fn tell_ready(path: &Path, url: &str) -> Result<(), Failure> {
    let made = path.with_extension("new");
    let text = format!("{}\n", serde_json::json!({ "url": url }));
    fs::write(&made, text).and_then(|()| fs::rename(&made, path)).map_err(|error| {
        Failure::new(Code::ConfigInvalid, format!("the ready file `{}` cannot be written", path.display()))
            .because_of(&error)
    })
}
