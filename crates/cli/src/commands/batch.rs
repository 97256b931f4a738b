//! Batches: requests that are answered when there is room, at a discount.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use galerne_api::client::{Call, encode_segment};
use galerne_api::error::Code;
use reqwest::Method;
use serde_json::{Value, json};

use super::file::{self, at, text};
use crate::display;
use crate::failure::Failure;
use crate::session::Session;
use crate::table::{Column, Facts, Table};

/// Longest page of the server's.
const PAGE: &str = "100";

/// Verbs of `galerne batch`.
#[derive(Debug, Subcommand)]
pub enum BatchCommand {
    /// Run the requests of a file, one per line
    Create(CreateArguments),
    /// List those of the key's project
    List,
    /// Show one
    Show {
        /// Its id
        id: String,
    },
    /// Start no more of its requests; what was answered is kept
    Cancel {
        /// Its id
        id: String,
    },
    /// Copy its answers to a file, or to stdout
    Download {
        /// Its id
        id: String,
        /// What was not answered, and why, instead of the answers
        #[arg(long)]
        errors: bool,
        /// Where to write it; must not exist [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
}

/// What `galerne batch create` takes.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Id of an uploaded file, or a file here, which is then uploaded
    input: String,
    /// What its requests are for
    #[arg(long, default_value = "/v1/chat/completions", value_name = "PATH")]
    endpoint: String,
}

impl BatchCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(session).await,
            Self::List => list(session).await,
            Self::Show { id } => show(session, &id).await,
            Self::Cancel { id } => cancel(session, &id).await,
            Self::Download { id, errors, to } => download(session, &id, errors, to.as_deref()).await,
        }
    }
}

impl CreateArguments {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let client = session.client()?;
        let is_id = self.input.strip_prefix("file_").is_some_and(|digits| digits.len() == 32);
        let file = if is_id {
            self.input
        } else {
            let made = file::upload(&client, Path::new(&self.input), "batch", None).await?;
            text(&made, "id")
        };
        let body = json!({ "input_file_id": file, "endpoint": self.endpoint, "completion_window": "24h" });
        let batch: Value = client.call(Call::new(Method::POST, "/v1/batches").json(&body)).await?.json()?;
        let id = text(&batch, "id");
        session.output.done(format!("batch `{id}` made of file `{file}`"));
        if session.is_json() {
            return session.output.json(&batch);
        }
        session.output.line(&id)?;
        session.output.note(format!("how it goes: galerne batch show {id}"));
        Ok(())
    }
}

async fn list(session: &mut Session) -> Result<(), Failure> {
    let batches = file::all(&session.client()?, "/v1/batches", Vec::new(), PAGE).await?;
    if session.is_json() {
        return session.output.json(&json!({ "items": batches }));
    }
    let mut table = Table::new(&[
        Column::Word("id"),
        Column::Word("state"),
        Column::Number("answered"),
        Column::Number("refused"),
        Column::Number("of"),
        Column::Text("model"),
        Column::Word("made"),
    ]);
    for batch in batches {
        let [completed, failed, total] = counts(&batch);
        let made = at(&batch, "created_at").unwrap_or_default();
        table.row([text(&batch, "id"), text(&batch, "status"), completed, failed, total, text(&batch, "model"), made]);
    }
    table.write(&mut session.output, "no batch yet: galerne batch create REQUESTS.jsonl")
}

async fn show(session: &mut Session, id: &str) -> Result<(), Failure> {
    let batch: Value = session.client()?.read(&one(id), &[]).await?;
    if session.is_json() {
        return session.output.json(&batch);
    }
    let [completed, failed, total] = counts(&batch);
    let mut facts = Facts::new();
    facts.add("state", text(&batch, "status"));
    facts.add("requests", format!("{completed} answered, {failed} not, of {total}"));
    for fault in batch["errors"]["data"].as_array().into_iter().flatten().take(5) {
        let line = fault["line"].as_i64().map_or_else(String::new, |line| format!("line {line}: "));
        facts.add("wrong", format!("{line}{} [{}]", text(fault, "message"), text(fault, "code")));
    }
    facts.add("endpoint", text(&batch, "endpoint")).add("model", text(&batch, "model"));
    facts.maybe("tokens", batch["usage"]["total_tokens"].as_i64().map(display::count));
    facts.add("input", text(&batch, "input_file_id"));
    facts.maybe("answers", batch["output_file_id"].as_str());
    facts.maybe("not answered", batch["error_file_id"].as_str());
    facts.maybe("made", at(&batch, "created_at"));
    facts.maybe("until", at(&batch, "expires_at"));
    facts.add("id", text(&batch, "id"));
    facts.write(&mut session.output)?;
    if batch["output_file_id"].is_string() {
        session.output.note(format!("its answers: galerne batch download {id}"));
    } else {
        session.output.note(format!("why it is as it is: galerne why {id}"));
    }
    Ok(())
}

async fn cancel(session: &mut Session, id: &str) -> Result<(), Failure> {
    let call = Call::new(Method::POST, format!("{}/cancel", one(id)));
    let batch: Value = session.client()?.call(call).await?.json()?;
    session.output.done(format!("batch `{id}` starts no more requests"));
    if session.is_json() { session.output.json(&batch) } else { Ok(()) }
}

async fn download(session: &mut Session, id: &str, errors: bool, to: Option<&Path>) -> Result<(), Failure> {
    let batch: Value = session.client()?.read(&one(id), &[]).await?;
    let (name, what) = if errors { ("error_file_id", "errors") } else { ("output_file_id", "answers") };
    match batch[name].as_str() {
        Some(file) => file::download(session, file, to).await,
        None => {
            let status = text(&batch, "status");
            let failure = Failure::new(Code::NotFound, format!("batch `{id}` has no file of {what}: it is `{status}`"));
            Err(failure.hint(format!("how it stands: galerne batch show {id}")))
        }
    }
}

fn one(id: &str) -> String {
    format!("/v1/batches/{}", encode_segment(id))
}

/// Answered, not answered, all.
fn counts(batch: &Value) -> [String; 3] {
    let count = |name: &str| display::count(batch["request_counts"][name].as_i64().unwrap_or_default());
    [count("completed"), count("failed"), count("total")]
}
