//! `galerne up`, seen from the terminal: its options, and the first steps once the server listens.
//!
//! Everything the first start does goes through the same API as anybody's call, and looks only at what is there:
//! a start that was interrupted is continued by the next one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use galerne_api::client::Client;
use galerne_api::v1::identity::Whoami;
use galerne_model::inference::Endpoint;

use crate::arguments::ServerArguments;
use crate::display;
use crate::failure::Failure;
use crate::profile::Profile;
use crate::session::connect;

mod first_answer;
mod first_model;
pub mod phases;
mod ready_file;

use phases::Phases;

/// The model a first start serves: small enough for any machine, with a licence that lets anybody use it.
const MODEL_DEFAULT: &str = "smollm2-135m-instruct";

/// Options of `galerne up`.
#[derive(Debug, Clone, Args)]
pub struct UpArguments {
    /// Model that a first start serves: a name of the catalogue or a source as of `galerne model pull`
    #[arg(long, value_name = "MODEL", default_value = MODEL_DEFAULT)]
    pub model: String,
    /// Serve no model by itself
    #[arg(long, conflicts_with = "model")]
    pub no_model: bool,
    /// Do not ask a first question
    #[arg(long)]
    pub no_first_chat: bool,
    /// Write {"url","api_key","endpoint"} here once everything is ready, for scripts
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Address under which others reach it, where the certificate names another host than --listen
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// The server's own options
    #[command(flatten)]
    pub server: ServerArguments,
}

/// A server that listens, as the first steps see it.
#[derive(Debug, Clone)]
pub struct Site {
    /// Where it is reached.
    pub url: String,
    /// The operator's key, when it was made by this start.
    pub first_key: Option<String>,
    /// From the start of the process until it listened.
    pub listens_after: Duration,
    /// A certificate to trust beside the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// What the first steps did, for the last lines.
struct Steps<'a> {
    phases: &'a Phases,
    arguments: &'a UpArguments,
    client: Client,
    profile: Profile,
}

/// What a start does once its server listens: a model, an endpoint, a first answer, the ready file, the next commands.
pub async fn first_steps(
    phases: &Phases,
    arguments: &UpArguments,
    config: &Path,
    site: &Site,
    profile: Profile,
) -> Result<(), Failure> {
    let client = connect(&profile)?;
    let mut steps = Steps { phases, arguments, client, profile };
    if site.first_key.is_none() {
        phases.line(format!(
            "  ready after {}; the state is that of the last start",
            display::elapsed(site.listens_after)
        ));
    }
    let mut endpoint = None;
    if !arguments.no_model {
        let (served, is_new) = steps.serve_model().await?;
        // A start that was interrupted before its answer leaves an endpoint that nobody has asked anything.
        if (is_new || served.status.last_request_at.is_none()) && !arguments.no_first_chat {
            steps.first_answer(&served.name).await?;
        }
        steps.keep_endpoint(config, &served)?;
        endpoint = Some(served.name);
    }
    if let Some(path) = &arguments.ready_file {
        ready_file::write(path, &steps.profile, endpoint.as_deref())?;
        phases.line(format!("  ready file written: {}", path.display()));
    }
    steps.say_next(config, site, endpoint.as_deref());
    Ok(())
}

impl Steps<'_> {
    /// Remembers which endpoint `galerne chat` talks to.
    fn keep_endpoint(&mut self, config: &Path, endpoint: &Endpoint) -> Result<(), Failure> {
        if self.profile.endpoint.as_deref() != Some(&endpoint.name) {
            self.profile.endpoint = Some(endpoint.name.clone());
            if !is_of_another(&Profile::load(config)?, &self.profile) {
                self.profile.save(config)?;
            }
        }
        Ok(())
    }
}

/// The profile for this server: the stored one if its key still works, else one with a new key.
///
/// `mint` makes the operator a new key, recorded as an event. A profile of another server is moved aside for a person; a
/// script, which waits for a ready file, leaves it where it is.
pub async fn keep_profile(
    phases: &Phases,
    arguments: &UpArguments,
    config: &Path,
    site: &Site,
    mint: impl AsyncFnOnce() -> Result<String, Failure>,
) -> Result<Profile, Failure> {
    let stored = Profile::load(config)?;
    if site.first_key.is_none() && stored.url.as_deref() == Some(site.url.as_str()) && works(&stored).await? {
        return Ok(stored);
    }
    let key = match &site.first_key {
        Some(key) => key.clone(),
        None => mint().await?,
    };
    let profile =
        Profile { url: Some(site.url.clone()), api_key: Some(key), endpoint: None, ca_file: site.ca_file.clone() };
    if arguments.ready_file.is_some() && is_of_another(&stored, &profile) {
        return Ok(profile);
    }
    if let Some(kept) = stored.keep_aside(config)? {
        phases.line(format!("  the profile of {} was moved to {}", stored.url(), kept.display()));
    }
    profile.save(config)?;
    Ok(profile)
}

fn is_of_another(stored: &Profile, profile: &Profile) -> bool {
    stored.api_key.is_some() && stored.url != profile.url
}

/// Whether the server knows the profile's key.
async fn works(profile: &Profile) -> Result<bool, Failure> {
    let Ok(client) = connect(profile) else { return Ok(false) };
    match client.read::<Whoami>("/api/v1/whoami", &[]).await.map_err(Failure::from) {
        Ok(_) => Ok(true),
        Err(failure) if failure.is_refusal() => Ok(false),
        Err(failure) => Err(failure),
    }
}
