//! `galerne login`: a server and a key, checked, for the commands that name no other.

use std::io::{IsTerminal, Read};
use std::path::Path;

use galerne_api::v1::identity::Whoami;

use crate::failure::Failure;
use crate::profile::Profile;
use crate::session::{Session, connect};

/// Longest text read as a key: one is 44 characters.
const KEY_MAX_BYTES: u64 = 1024;

/// Checks the key with the server before anything is written.
pub(crate) async fn run(session: &mut Session, config: &Path) -> Result<(), Failure> {
    let stored = Profile::load(config)?;
    let mut profile = session.profile.clone();
    // A key that is stored already is not what a login is about, unless it was named again.
    if profile.api_key.is_none() || profile.api_key == stored.api_key {
        profile.api_key = Some(read_key(session)?);
    }
    if stored.url() != profile.url() {
        profile.endpoint = None;
    }
    profile.url = Some(profile.url().to_owned());
    let who: Whoami = connect(&profile)?.read("/api/v1/whoami", &[]).await?;
    if stored.api_key != profile.api_key
        && let Some(kept) = stored.keep_aside(config)?
    {
        session.output.note(format!("the profile of {} was moved to {}", stored.url(), kept.display()));
    }
    let path = profile.save(config)?;
    session.output.done(format!(
        "{} in project {} of {} at {}",
        who.principal.name,
        who.project.name,
        who.tenant.name,
        profile.url()
    ));
    session.output.note(format!("kept in {}", path.display()));
    Ok(())
}

/// Reads a key from stdin. At a terminal it is seen while it is typed: better paste it, or set GALERNE_API_KEY.
fn read_key(session: &mut Session) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let mut key = String::new();
    let read = if stdin.is_terminal() {
        session.output.prompt("API key: ");
        stdin.read_line(&mut key)
    } else {
        stdin.take(KEY_MAX_BYTES).read_to_string(&mut key)
    };
    read.map_err(|error| Failure::usage("the key on stdin is not text").because_of(&error))?;
    Ok(key.trim().to_owned())
}
