//! How requests find their replicas.

use std::path::PathBuf;

use clap::Subcommand;
use galerne_api::client::{DryRun, encode_segment};
use galerne_api::v1::route::{RouteExplained, RouteQuestion, RouteReplica};
use galerne_model::inference::Endpoint;
use reqwest::Method;

use crate::display;
use crate::failure::Failure;
use crate::reason;
use crate::resources;
use crate::session::Session;
use crate::table::{Column, Table};

/// Verbs of `galerne route`.
#[derive(Debug, Subcommand)]
pub enum RouteCommand {
    /// What each replica of an endpoint would cost a request now, and which would be chosen
    Explain {
        /// The endpoint, as callers name it in `model`
        #[arg(value_name = "MODEL")]
        name: String,
        /// The body of a request, or a prompt alone; without one, a prompt that shares nothing with others
        #[arg(long, value_name = "FILE")]
        prompt: Option<PathBuf>,
    },
}

impl RouteCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Explain { name, prompt } => explain(session, &name, prompt).await,
        }
    }
}

async fn explain(session: &mut Session, name: &str, prompt: Option<PathBuf>) -> Result<(), Failure> {
    let request = match prompt {
        None => None,
        Some(path) => Some(
            std::fs::read_to_string(&path)
                .map_err(|error| Failure::usage(format!("`{}` cannot be read as text: {error}", path.display())))?,
        ),
    };
    let endpoint = resources::find::<Endpoint>(session, name).await?;
    let path = format!("/api/v1/endpoints/{}/route", encode_segment(&endpoint.id.to_string()));
    let question = RouteQuestion { request };
    let explained: RouteExplained = session.client()?.write(Method::POST, &path, DryRun::No, Some(&question)).await?;
    if session.is_json() {
        return session.output.json(&explained);
    }
    let mut table = Table::new(&[
        Column::Word("replica"),
        Column::Number("cost ms"),
        Column::Number("queue"),
        Column::Number("prompt"),
        Column::Number("decode"),
        Column::Number("KV"),
        Column::Number("times"),
        Column::Number("cached"),
        Column::Number("in flight"),
        Column::Word("breaker"),
    ]);
    for replica in &explained.replicas {
        let mark = if explained.chosen == Some(replica.replica_id) { "→ " } else { "  " };
        table.row(cells(mark, replica));
    }
    if !explained.replicas.is_empty() {
        table.write(&mut session.output, "")?;
    }
    reason::write(&mut session.output, &explained.reason)?;
    let RouteExplained { prompt_tokens, index_bytes, index_bytes_max, replicas, .. } = &explained;
    let compared = replicas.iter().filter(|replica| replica.compared).count();
    session.output.note(format!(
        "prompt of about {prompt_tokens} tokens; {compared} of {} replicas compared; prefix index {} of {} MiB",
        replicas.len(),
        index_bytes >> 20,
        index_bytes_max >> 20,
    ));
    Ok(())
}

fn cells(mark: &str, replica: &RouteReplica) -> Vec<String> {
    let ms = |micros: u64| format!("{}.{}", micros / 1_000, micros % 1_000 / 100);
    let cost = &replica.cost;
    let times = cost.pace_thousandths * cost.ramp_thousandths / 1_000;
    vec![
        format!("{mark}{}", replica.name),
        ms(cost.total_micros),
        ms(cost.queue_micros),
        ms(cost.prompt_micros),
        ms(cost.decode_micros),
        ms(cost.kv_micros),
        format!("{}.{}", times / 1_000, times % 1_000 / 100),
        replica.cached_tokens.to_string(),
        format!("{}+{}", replica.in_flight, replica.others),
        display::word(&replica.breaker),
    ]
}
