//! Events: who did what to which resource, from where, and how it was decided.

use std::time::Duration;

use clap::{Args, ValueEnum};
use galerne_api::v1::Page;
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::identity::Principal;
use serde_json::json;

use crate::display;
use crate::failure::Failure;
use crate::session::{Names, Session};
use crate::table::{Column, Table};

/// How often new events are asked for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Options of `galerne events`.
#[derive(Debug, Args)]
pub struct EventArguments {
    /// How many, newest last
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// Only this action, such as endpoint.create
    #[arg(long, value_name = "NOUN.VERB")]
    action: Option<String>,
    /// Only what concerns this resource, by id
    #[arg(long, value_name = "ID")]
    resource: Option<String>,
    /// Only what this principal did, by id
    #[arg(long, value_name = "ID")]
    principal: Option<String>,
    /// Only what was decided so
    #[arg(long, value_enum, value_name = "DECISION")]
    decision: Option<DecisionArgument>,
    /// Go on with new ones as they happen, until interrupted
    #[arg(long, short = 'f')]
    follow: bool,
}

/// How something was decided.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DecisionArgument {
    /// It was done
    Allowed,
    /// It was refused
    Denied,
}

impl EventArguments {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let mut seen = self.page(session, None).await?;
        let mut names = Names::default();
        if !session.is_json() {
            session.names::<Principal>(&mut names).await?;
        }
        let mut last = seen.iter().map(|event| event.sequence).max().unwrap_or(0);
        if !self.follow {
            return write(session, &seen, &names);
        }
        loop {
            for event in &seen {
                follow_line(session, event, &names)?;
                last = last.max(event.sequence);
            }
            session.output.flush()?;
            tokio::time::sleep(POLL_INTERVAL).await;
            seen = self.page(session, Some(last)).await?;
        }
    }

    /// Events after `after`, oldest first.
    async fn page(&self, session: &Session, after: Option<i64>) -> Result<Vec<Event>, Failure> {
        let decision = self.decision.map(|decision| match decision {
            DecisionArgument::Allowed => "allowed".to_owned(),
            DecisionArgument::Denied => "denied".to_owned(),
        });
        let mut query: Vec<(String, String)> = [
            ("limit", Some(self.limit.to_string())),
            ("action", self.action.clone()),
            ("resource", self.resource.clone()),
            ("principal", self.principal.clone()),
            ("decision", decision),
            ("after", after.map(|after| after.to_string())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect();
        query.extend(session.reach().await?.pairs());
        let page: Page<Event> = session.client()?.read("/api/v1/events", &query).await?;
        let mut events = page.items;
        events.sort_by_key(|event| event.sequence);
        Ok(events)
    }
}

fn write(session: &mut Session, events: &[Event], names: &Names) -> Result<(), Failure> {
    if session.is_json() {
        return session.output.json(&json!({ "items": events }));
    }
    let mut table = Table::new(&[
        Column::Word("at"),
        Column::Word("who"),
        Column::Word("what"),
        Column::Word(""),
        Column::Text("text"),
    ]);
    for event in events {
        let at = display::instant(event.at);
        table.row([at, who(&event.actor, names), event.action.clone(), mark(event.decision), event.text.clone()]);
    }
    table.write(&mut session.output, "no such event")?;
    if events.iter().any(|event| event.decision == Decision::Denied) {
        session.output.note("why something was denied: galerne why event_ID  (ids: galerne events -o json)");
    }
    Ok(())
}

fn follow_line(session: &mut Session, event: &Event, names: &Names) -> Result<(), Failure> {
    if session.is_json() {
        return session.output.json_line(event);
    }
    let (at, who) = (display::instant(event.at), who(&event.actor, names));
    session.output.line(format!("{at}  {who}  {}  {} {}", event.action, mark(event.decision), event.text))
}

fn who(actor: &Actor, names: &Names) -> String {
    match actor.principal_id {
        Some(id) => names.of(&id),
        None if actor.component.is_empty() => "unknown".to_owned(),
        None => actor.component.clone(),
    }
}

fn mark(decision: Decision) -> String {
    match decision {
        Decision::Allowed => "✓",
        Decision::Denied => "⨯ denied",
    }
    .to_owned()
}
