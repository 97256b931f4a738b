//! Downloads of models: how far they are, and stopping one.

use clap::Subcommand;
use galerne_api::client::encode_segment;
use galerne_api::v1::write::AtGeneration;
use galerne_model::inference::{Pull, PullState};
use galerne_model::units::Bytes;
use reqwest::Method;

use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne pull`.
#[derive(Debug, Subcommand)]
pub enum PullCommand {
    /// List downloads, those that ended included
    List,
    /// Show one
    Show(ShowArguments),
    /// Stop one; what is on disk is kept for the next try
    Cancel {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
}

impl PullCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => resources::list::<Pull>(session, "nothing was pulled yet: galerne model pull NAME").await,
            Self::Show(show) => resources::show::<Pull>(session, &show.name).await,
            Self::Cancel { name, change } => cancel(session, &name, change).await,
        }
    }
}

async fn cancel(session: &mut Session, name: &str, change: ChangeArguments) -> Result<(), Failure> {
    let seen = resources::find::<Pull>(session, name).await?;
    let path = format!("/api/v1/pulls/{}/cancel", encode_segment(&seen.id.to_string()));
    let body = AtGeneration { generation: Some(seen.generation) };
    let pull: Pull = session.client()?.write(Method::POST, &path, change.dry_run(), Some(&body)).await?;
    session.output.done(format!("pull `{}` {}", pull.name, change.participle("cancelled")));
    if session.is_json() { session.output.json(&pull) } else { Ok(()) }
}

impl Shown for Pull {
    const LEVEL: Level = Level::Project;
    const COLUMNS: &'static [Column] = &[
        Column::Word("name"),
        Column::Word("state"),
        Column::Number("done"),
        Column::Text("why"),
        Column::Word("begun"),
    ];

    fn cells(&self, _names: &Names) -> Vec<String> {
        let why = self.status.reason.as_ref().filter(|reason| !reason.holds);
        vec![
            self.name.clone(),
            display::word(&self.status.state),
            done(self),
            why.map_or_else(String::new, |reason| reason.text.clone()),
            display::instant(self.created_at),
        ]
    }

    fn facts(&self, _names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("state", display::word(&self.status.state));
        facts.maybe("because", self.status.reason.as_ref().map(|reason| reason.text.clone()));
        facts.add("done", done(self)).add("source", &self.spec.source);
        facts.maybe("sha256 asked", self.spec.sha256.as_deref());
        facts.maybe("requantise", self.spec.requantise.as_ref().map(display::word));
        facts.maybe("model", self.status.model_id.map(|id| id.to_string()));
        facts
    }
}

/// Bytes so far, and the share of all where that is known.
fn done(pull: &Pull) -> String {
    let Bytes(done) = pull.status.done;
    let share = pull.status.total.filter(|total| total.0 > 0 && pull.status.state != PullState::Done);
    let share =
        share.map_or_else(String::new, |total| format!(" ({} %)", i128::from(done) * 100 / i128::from(total.0)));
    format!("{}{share}", display::bytes(pull.status.done))
}
