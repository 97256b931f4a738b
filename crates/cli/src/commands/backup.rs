//! Copies of the state, made while the server runs.

use clap::Subcommand;
use galerne_api::client::DryRun;
use galerne_api::v1::backup::{Backup, CreateBackup};
use reqwest::Method;
use serde_json::json;

use crate::display;
use crate::failure::Failure;
use crate::session::Session;
use crate::table::{Column, Table};

/// Verbs of `galerne backup`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Make one now
    Create,
    /// List them
    List,
}

impl BackupCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Create => create(session).await,
            Self::List => list(session).await,
        }
    }
}

async fn create(session: &mut Session) -> Result<(), Failure> {
    let client = session.client()?;
    let made: Backup = client.write(Method::POST, "/api/v1/backups", DryRun::No, Some(&CreateBackup {})).await?;
    session.output.done(format!("backup made ({})", display::bytes(made.size)));
    if session.is_json() {
        return session.output.json(&made);
    }
    session.output.line(&made.folder)?;
    session.output.note("bring it back, with the server stopped: galerne restore DATA/FOLDER --data NEW_DATA");
    Ok(())
}

async fn list(session: &mut Session) -> Result<(), Failure> {
    let backups: Vec<Backup> = session.client()?.read_all("/api/v1/backups", &[]).await?;
    if session.is_json() {
        return session.output.json(&json!({ "items": backups }));
    }
    let mut table = Table::new(&[Column::Word("made"), Column::Number("size"), Column::Word("folder")]);
    for backup in backups {
        table.row([display::instant(backup.created_at), display::bytes(backup.size), backup.folder]);
    }
    table.write(&mut session.output, "no backup yet; make one: galerne backup create")
}
