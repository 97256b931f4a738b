//! What works on a server's files while no server runs: its configuration, its schema, and bringing back a backup.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use galerne_api::error::Code;
use galerne_cli::{ConfigCommand, Failure, OptionShown, Output, RestoreArguments, ServerArguments, write_options};
use galerne_server::StartError;
use galerne_server::config::{self, Config, Layers};

use crate::refusal;

/// Where the pepper is kept, below a data directory: without it no key made before is known.
const PEPPER: &str = "secrets/pepper";

/// What is meant.
pub(crate) fn configuration(arguments: &ServerArguments) -> Result<Config, Failure> {
    Config::from_layers(&layers(arguments)?).map_err(|bad| refusal::configuration(&bad))
}

/// What was typed, in layers.
fn layers(arguments: &ServerArguments) -> Result<Layers, Failure> {
    Layers::read(arguments.config.as_deref(), &config::environment(), &arguments.flags())
        .map_err(|bad| refusal::configuration(&bad))
}

/// `galerne config`.
pub(crate) fn config(command: &ConfigCommand, output: &mut Output) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(arguments) => {
            configuration(arguments)?;
            output.done("the configuration is sound");
            Ok(())
        }
        ConfigCommand::Show(arguments) => {
            let shown = config::show(&layers(arguments)?).into_iter().map(|option| OptionShown {
                name: option.key.to_owned(),
                value: option.value,
                origin: option.origin,
                meaning: option.doc.to_owned(),
            });
            write_options(output, &shown.collect::<Vec<_>>())
        }
    }
}

/// `galerne restore`.
pub(crate) async fn restore(arguments: &RestoreArguments, output: &mut Output) -> Result<(), Failure> {
    let config = configuration(&arguments.server)?;
    let effect = format!("the state of `{}` is written to `{}`", arguments.backup.display(), config.database);
    if !output.may_go_on(&effect, arguments.yes)? {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.data).map_err(|error| {
        Failure::new(Code::DataDirUnusable, format!("`{}` cannot be made", config.data.display())).because_of(&error)
    })?;
    let manifest = galerne_server::restore(&arguments.backup, &config.database).await.map_err(|error| {
        refusal::start(&StartError::Store(error)).hint("restore into a directory that is new: --data FOLDER")
    })?;
    let rows: i64 = manifest.rows.values().sum();
    output.done(format!("{rows} rows of {} tables restored, as of {}", manifest.rows.len(), manifest.created_at));
    // A backup lies in `backups/ID` of its data directory; secrets are beside it and never in it.
    let pepper = arguments.backup.parent().and_then(Path::parent).map(|data| data.join(PEPPER));
    match pepper.filter(|pepper| pepper.is_file()) {
        Some(pepper) => {
            copy_private(&pepper, &config.data.join(PEPPER)).map_err(|error| {
                Failure::new(Code::DataDirUnusable, format!("`{}` cannot be copied", pepper.display())).because_of(&error)
            })?;
            output.note("API keys go on working: the secret they are checked with was copied beside the state");
        }
        None => output.note("API keys made before do not work here: their secret is not beside the backup; `galerne up` makes a new key"),
    }
    output.note("model files are not in a backup: pull them again, or copy the folder `blobs`");
    output.note(format!("next: galerne up --data {}", config.data.display()));
    Ok(())
}

/// `galerne migrate`.
pub(crate) async fn migrate(arguments: &ServerArguments, output: &mut Output) -> Result<(), Failure> {
    let config = configuration(arguments)?;
    let done =
        galerne_server::migrate(&config.database).await.map_err(|error| refusal::start(&StartError::Store(error)))?;
    if done.from == done.to {
        output.done(format!("`{}` has schema {} already", config.database, done.to));
    } else {
        output.done(format!("`{}` brought from schema {} to {}", config.database, done.from, done.to));
    }
    if let Some(copy) = done.copy {
        output.note(format!("as it was before: {}", copy.display()));
    }
    Ok(())
}

fn copy_private(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(folder) = to.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    file.write_all(&fs::read(from)?)?;
    file.sync_all()
}
