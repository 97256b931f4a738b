//! Replicas: engines behind endpoints.

use clap::Subcommand;
use galerne_model::inference::{Endpoint, Replica};
use galerne_model::node::Node;

use crate::display;
use crate::failure::Failure;
use crate::resources::{self, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne replica`.
#[derive(Debug, Subcommand)]
pub enum ReplicaCommand {
    /// List replicas
    List,
    /// Show one
    Show(ShowArguments),
}

impl ReplicaCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => {
                resources::list::<Replica>(session, "no replica runs; see why: galerne why endpoint/NAME").await
            }
            Self::Show(show) => resources::show::<Replica>(session, &show.name).await,
        }
    }
}

impl Shown for Replica {
    const LEVEL: Level = Level::Project;
    const COLUMNS: &'static [Column] = &[
        Column::Word("endpoint"),
        Column::Number("index"),
        Column::Word("state"),
        Column::Number("restarts"),
        Column::Word("since"),
        Column::Text("why"),
    ];

    fn cells(&self, names: &Names) -> Vec<String> {
        vec![
            names.of(&self.spec.endpoint_id),
            self.spec.index.to_string(),
            display::word(&self.status.state),
            self.status.restarts.to_string(),
            display::instant(self.status.since),
            self.status.reason.text.clone(),
        ]
    }

    fn facts(&self, names: &Names) -> Facts {
        let status = &self.status;
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("endpoint", names.of(&self.spec.endpoint_id));
        facts.maybe("node", self.spec.node_id.map(|id| names.of(&id)));
        facts.add("state", display::word(&status.state)).add("because", &status.reason.text);
        facts.add("since", display::instant(status.since)).add("restarts", status.restarts.to_string());
        facts.maybe("address", status.url.as_deref());
        facts.maybe("context", status.context_tokens.map(|tokens| format!("{tokens} tokens")));
        facts.maybe("sequences", status.sequences.map(|count| count.to_string()));
        let abilities = status.abilities.map(|can| {
            let named = [(can.fills_gaps, "fills gaps in texts"), (can.calls_functions, "calls functions")];
            named.iter().filter(|(can, _)| *can).map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
        });
        facts.maybe("also", abilities.filter(|names| !names.is_empty()));
        facts.maybe("deadline", status.deadline_at.map(display::instant));
        facts
    }

    async fn look_up(session: &Session, names: &mut Names) -> Result<(), Failure> {
        session.names::<Endpoint>(names).await?;
        session.names::<Node>(names).await
    }
}
