//! Files of a project: uploaded, listed, read back, deleted.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use galerne_api::client::{Call, Client, Upload, encode_segment};
use galerne_api::error::Code;
use galerne_model::units::Bytes;
use jiff::Timestamp;
use reqwest::Method;
use serde_json::{Value, json};

use crate::display;
use crate::failure::Failure;
use crate::session::Session;
use crate::table::{Column, Facts, Table};

/// Longest page of the server's.
const PAGE: &str = "1000";

/// Verbs of `galerne file`.
#[derive(Debug, Subcommand)]
pub enum FileCommand {
    /// Upload one
    Upload(UploadArguments),
    /// List those of the key's project
    List {
        /// Only those for this: batch, batch_output, fine-tune, user_data
        #[arg(long, value_name = "PURPOSE")]
        purpose: Option<String>,
    },
    /// Show one
    Show {
        /// Its id
        id: String,
    },
    /// Copy its bytes to a file, or to stdout
    Download {
        /// Its id
        id: String,
        /// Where to write it; must not exist [default: stdout]
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
    },
    /// Delete one and its bytes
    Delete {
        /// Its id
        id: String,
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
    },
}

/// What `galerne file upload` takes.
#[derive(Debug, Args)]
pub struct UploadArguments {
    /// The file
    path: PathBuf,
    /// What it is for: batch, fine-tune, user_data
    #[arg(long, default_value = "batch", value_name = "PURPOSE")]
    purpose: String,
    /// Hours until it goes, 1 to 720 [default: 720 for batches, else until it is deleted]
    #[arg(long, value_name = "HOURS")]
    expires_in: Option<u32>,
}

impl FileCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Upload(upload) => upload.run(session).await,
            Self::List { purpose } => list(session, purpose).await,
            Self::Show { id } => show(session, &id).await,
            Self::Download { id, to } => download(session, &id, to.as_deref()).await,
            Self::Delete { id, yes } => delete(session, &id, yes).await,
        }
    }
}

impl UploadArguments {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let hours = self.expires_in;
        let file = upload(&session.client()?, &self.path, &self.purpose, hours).await?;
        let id = text(&file, "id");
        session.output.done(format!("file `{}` uploaded ({})", text(&file, "filename"), size(&file)));
        if session.is_json() {
            return session.output.json(&file);
        }
        session.output.line(&id)?;
        if self.purpose == "batch" {
            session.output.note(format!("run its requests: galerne batch create {id}"));
        }
        Ok(())
    }
}

/// Uploads a file.
pub(super) async fn upload(client: &Client, path: &Path, purpose: &str, hours: Option<u32>) -> Result<Value, Failure> {
    let unreadable = |error: &std::io::Error| {
        Failure::new(Code::UsageInvalid, format!("`{}` cannot be read", path.display())).because_of(error)
    };
    let file = tokio::fs::File::open(path).await.map_err(|error| unreadable(&error))?;
    let facts = file.metadata().await.map_err(|error| unreadable(&error))?;
    if !facts.is_file() {
        return Err(Failure::usage(format!("`{}` is not a file", path.display())));
    }
    let mut fields = vec![("purpose".to_owned(), purpose.to_owned())];
    fields.extend(hours.map(|hours| ("expiry".to_owned(), hours.to_string())));
    let filename = path.file_name().map_or_else(|| "file".to_owned(), |name| name.to_string_lossy().into_owned());
    Ok(client.upload(Upload { filename, fields, file, size: facts.len() }).await?)
}

async fn list(session: &mut Session, purpose: Option<String>) -> Result<(), Failure> {
    let query: Vec<(String, String)> = purpose.map(|purpose| ("purpose".to_owned(), purpose)).into_iter().collect();
    let files = all(&session.client()?, "/v1/files", query, PAGE).await?;
    if session.is_json() {
        return session.output.json(&json!({ "items": files }));
    }
    let mut table = Table::new(&[
        Column::Word("id"),
        Column::Text("name"),
        Column::Word("purpose"),
        Column::Number("size"),
        Column::Word("made"),
        Column::Word("goes"),
    ]);
    for file in files {
        let goes = at(&file, "expires_at").unwrap_or_else(display::dash);
        let made = at(&file, "created_at").unwrap_or_default();
        table.row([text(&file, "id"), text(&file, "filename"), text(&file, "purpose"), size(&file), made, goes]);
    }
    table.write(&mut session.output, "no file yet: galerne file upload REQUESTS.jsonl")
}

/// Everything of a list of OpenAI's, page by page.
pub(super) async fn all(
    client: &Client,
    path: &str,
    query: Vec<(String, String)>,
    limit: &str,
) -> Result<Vec<Value>, Failure> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let mut query = query.clone();
        query.push(("limit".to_owned(), limit.to_owned()));
        query.extend(after.take().map(|after| ("after".to_owned(), after)));
        let page: Value = client.read(path, &query).await?;
        all.extend(page["data"].as_array().cloned().unwrap_or_default());
        if page["has_more"] != true {
            return Ok(all);
        }
        after = page["last_id"].as_str().map(str::to_owned);
    }
}

async fn show(session: &mut Session, id: &str) -> Result<(), Failure> {
    let file: Value = session.client()?.read(&one(id), &[]).await?;
    if session.is_json() {
        return session.output.json(&file);
    }
    let mut facts = Facts::new();
    facts.add("name", text(&file, "filename")).add("purpose", text(&file, "purpose")).add("size", size(&file));
    facts.maybe("lines", file["num_lines"].as_i64().map(display::count));
    facts.add("sha256", text(&file, "signature")).add("visible to", text(&file, "visibility"));
    facts.maybe("made", at(&file, "created_at"));
    facts.maybe("goes", at(&file, "expires_at"));
    facts.add("id", text(&file, "id"));
    facts.write(&mut session.output)
}

/// Copies the bytes of a file.
pub(super) async fn download(session: &mut Session, id: &str, to: Option<&Path>) -> Result<(), Failure> {
    let call = Call::new(Method::GET, format!("{}/content", one(id)));
    let client = session.client()?;
    let Some(path) = to else {
        let output = &mut session.output;
        client.download(call, &mut |bytes| output.raw(bytes)).await?;
        return Ok(());
    };
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(path).map_err(|error| {
        Failure::new(Code::UsageInvalid, format!("`{}` cannot be made", path.display())).because_of(&error)
    })?;
    let copied = client.download(call, &mut |bytes| std::io::Write::write_all(&mut file, bytes)).await;
    if copied.is_err() {
        // Half a file looks like a whole one.
        drop(std::fs::remove_file(path));
    }
    let size = display::bytes(Bytes(i64::try_from(copied?).unwrap_or(i64::MAX)));
    session.output.done(format!("file `{id}` written to `{}` ({size})", path.display()));
    Ok(())
}

async fn delete(session: &mut Session, id: &str, yes: bool) -> Result<(), Failure> {
    let client = session.client()?;
    let file: Value = client.read(&one(id), &[]).await?;
    let effect = format!("file `{}` of {} goes, for good", text(&file, "filename"), size(&file));
    if !session.output.may_go_on(&effect, yes)? {
        return Ok(());
    }
    let gone: Value = client.call(Call::new(Method::DELETE, one(id))).await?.json()?;
    session.output.done(format!("file `{}` deleted", text(&file, "filename")));
    if session.is_json() { session.output.json(&gone) } else { Ok(()) }
}

fn one(id: &str) -> String {
    format!("/v1/files/{}", encode_segment(id))
}

/// A text field.
pub(super) fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

/// An instant in seconds, as people read it.
pub(super) fn at(value: &Value, name: &str) -> Option<String> {
    Timestamp::from_second(value[name].as_i64()?).ok().map(display::instant)
}

fn size(file: &Value) -> String {
    display::bytes(Bytes(file["bytes"].as_i64().unwrap_or_default()))
}
