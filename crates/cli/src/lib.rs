//! The commands of `galerne` and their output.
//!
//! Deliberately absent: the server's insides. Commands know its API and nothing else; what starts a server or works on its
//! files is handed back to the binary.

mod arguments;
mod commands;

pub mod up;

mod login;

mod answer;
mod reason;
mod resources;
mod session;

pub mod environment;
mod private_file;
mod profile;

mod display;
mod failure;
mod output;
mod table;

pub use arguments::{Arguments, Command, ConfigCommand, GatewayArguments, Global, RestoreArguments, ServerArguments};
pub use commands::node::hardware_line;
pub use failure::Failure;
pub use output::{Format, Output};
pub use profile::Profile;

use std::path::Path;

use clap::CommandFactory;
use galerne_api::client::ListOptions;
use galerne_api::v1::identity::Whoami;
use serde_json::json;

use crate::session::Session;
use crate::table::{Column, Facts, Table};

/// One option of the server, as `galerne config show` prints it.
#[derive(Debug, Clone, serde::Serialize)]
pub struct OptionShown {
    /// Its name in the configuration file.
    pub name: String,
    /// Its value, passwords hidden; empty when unset.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
    /// What it is.
    pub meaning: String,
}

/// Writes the options of a server and where each comes from.
pub fn write_options(output: &mut Output, options: &[OptionShown]) -> Result<(), Failure> {
    if output.format() == Format::Json {
        return output.json(&json!({ "items": options }));
    }
    let mut table =
        Table::new(&[Column::Word("option"), Column::Word("value"), Column::Word("from"), Column::Text("meaning")]);
    for option in options {
        let value = if option.value.is_empty() { display::dash() } else { option.value.clone() };
        table.row([option.name.clone(), value, option.origin.clone(), option.meaning.clone()]);
    }
    table.write(output, "")
}

/// Runs a command that talks to a server, or to nobody.
///
/// `up`, `gateway`, `restore`, `migrate` and `config` work on a server's own files: the binary runs them.
pub async fn run(command: Command, global: &Global, output: Output, config: &Path) -> u8 {
    let profile = match Profile::load(config) {
        Ok(profile) => profile.overridden(global.url.as_deref(), global.key.as_deref(), global.ca_file.as_deref()),
        Err(failure) => return { output }.failure(&failure),
    };
    let place =
        ListOptions { tenant: global.tenant.clone(), project: global.project.clone(), ..ListOptions::default() };
    let mut session = Session::new(output, profile, place);
    let outcome = Box::pin(dispatch(command, &mut session, config)).await;
    match outcome.and_then(|()| session.output.flush()) {
        Ok(()) => 0,
        Err(failure) => session.output.failure(&failure),
    }
}

async fn dispatch(command: Command, session: &mut Session, config: &Path) -> Result<(), Failure> {
    match command {
        Command::Up(_) | Command::Gateway(_) | Command::Restore(_) | Command::Migrate(_) | Command::Config(_) => {
            unreachable!("the binary runs what works on a server's files")
        }
        Command::Chat(arguments) => arguments.run(session).await,
        Command::Login => login::run(session, config).await,
        Command::Whoami => whoami(session).await,
        Command::Env(arguments) => arguments.run(session),
        Command::Model(command) => command.run(session).await,
        Command::Pull(command) => command.run(session).await,
        Command::Endpoint(command) => command.run(session).await,
        Command::Replica(command) => command.run(session).await,
        Command::Node(command) => command.run(session).await,
        Command::File(command) => command.run(session).await,
        Command::Batch(command) => command.run(session).await,
        Command::Key(command) => command.run(session).await,
        Command::Project(command) => command.run(session).await,
        Command::Tenant(command) => command.run(session).await,
        Command::Principal(command) => command.run(session).await,
        Command::Role(command) => command.run(session).await,
        Command::Cost(arguments) => arguments.run(session).await,
        Command::Usage(arguments) => arguments.run(session).await,
        Command::Budget(command) => command.run(session).await,
        Command::Price(command) => command.run(session).await,
        Command::Ledger(command) => command.run(session).await,
        Command::Events(arguments) => arguments.run(session).await,
        Command::Top(arguments) => arguments.run(session).await,
        Command::Why(arguments) => arguments.run(session).await,
        Command::Route(command) => command.run(session).await,
        Command::Explain(arguments) => arguments.run(&mut session.output),
        Command::Backup(command) => command.run(session).await,
        Command::Api(arguments) => arguments.run(session).await,
        Command::Completions { shell } => completions(session, shell),
        Command::Version => version(session).await,
    }
}

async fn whoami(session: &mut Session) -> Result<(), Failure> {
    let who: Whoami = session.client()?.read("/api/v1/whoami", &[]).await?;
    if session.is_json() {
        return session.output.json(&who);
    }
    let mut names = session::Names::default();
    names.add(&who.tenant.id, &who.tenant.name);
    names.add(&who.project.id, &who.project.name);
    let roles: Vec<String> = who
        .roles
        .iter()
        .map(|role| format!("{} on {}", display::word(&role.spec.role), commands::role::place(role.spec.scope, &names)))
        .collect();
    let scopes: Vec<String> = who.key.spec.scopes.iter().map(display::word).collect();
    let mut facts = Facts::new();
    facts.add("principal", format!("{} ({})", who.principal.name, display::word(&who.principal.spec.kind)));
    facts.add("roles", if roles.is_empty() { "none".to_owned() } else { roles.join(", ") });
    facts.add("key", format!("{} (…{}), for {}", who.key.name, who.key.status.last_four, scopes.join(", ")));
    facts.add("tenant", &who.tenant.name).add("project", &who.project.name);
    facts.add("server", format!("{} version {}", session.profile.url(), who.server_version));
    facts.write(&mut session.output)
}

fn completions(session: &mut Session, shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "galerne", &mut script);
    session.output.bytes(&script)
}

/// The version of this program, and of the server if one answers; that none does is no failure.
async fn version(session: &mut Session) -> Result<(), Failure> {
    let own = env!("CARGO_PKG_VERSION");
    let server = match session.client() {
        Ok(client) => client.read::<Whoami>("/api/v1/whoami", &[]).await.ok().map(|who| who.server_version),
        Err(_) => None,
    };
    if session.is_json() {
        return session.output.json(&json!({ "version": own, "server_version": server }));
    }
    session.output.line(format!("galerne {own}"))?;
    match server {
        Some(server) => session.output.line(format!("server  {server} at {}", session.profile.url())),
        None => Ok(()),
    }
}
