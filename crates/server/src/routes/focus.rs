//! Costs as a report that programs of others read: FOCUS 1.2 as CSV, streamed a day at a time (docs/decisions/0044).

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use galerne_api::error::Code;
use galerne_api::v1::usage::CostFormat;
use galerne_core::authorize::Noun;
use galerne_core::focus::{Group, Named, Report};
use galerne_model::identity::{ApiKey, Project, Tenant};
use galerne_model::ids::EndpointId;
use galerne_model::inference::Endpoint;
use galerne_store::{Kind as StoreKind, StoreError, UsageFilter, UsageGroup};
use http::{StatusCode, header};
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::Deserialize;
use utoipa::PartialSchema;
use utoipa_axum::router::OpenApiRouter;

use super::managed::Managed;
use super::usage::{Reach, day, name, reach, start_of};
use crate::app::App;
use crate::http::body::Params;
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::refusal::{Refusal, chain};

/// Pieces of a report that wait for a slow reader.
const PIECES_MAX: usize = 4;
/// Longest report: ten years. Each day is a question to the database, be there usage or not.
const DAYS_MAX: i32 = 3_660;
const MICROS_PER_DAY: i64 = 86_400_000_000;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportParams {
    #[serde(default)]
    format: CostFormat,
    tenant: Option<String>,
    project: Option<String>,
    from: Option<String>,
    until: Option<String>,
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::get("/api/v1/costs/export", "export_costs", "what was charged, as a report that other programs read")
        .placed()
        .queries(&[
            ("from", "first day, `YYYY-MM-DD` in UTC; default: the first of this month"),
            ("until", "day after the last, `YYYY-MM-DD` in UTC; default: tomorrow"),
        ])
        .query("format", "how to write it", CostFormat::schema())
        .answers_media("text/csv")
        .on(router, export)
}

async fn export(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ExportParams>,
) -> Result<Response, Refusal> {
    let CostFormat::Focus = params.format;
    let mut reader = app.store().reader().await?;
    let about = About::all("costs", "export");
    let reach =
        reach(&mut reader, &caller, Noun::Usage, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    drop(reader);
    let today = App::now().to_zoned(TimeZone::UTC).date();
    let from = day("from", params.from.as_deref())?.unwrap_or_else(|| today.first_of_month());
    let until = day("until", params.until.as_deref())?.unwrap_or_else(|| today.tomorrow().unwrap_or(today));
    let days = until.since((jiff::Unit::Day, from)).map_or(DAYS_MAX + 1, |span| span.get_days());
    if !(0..=DAYS_MAX).contains(&days) {
        let text = format!("`from` must not be after `until`, nor more than {DAYS_MAX} days before it");
        return Err(Refusal::new(Code::InvalidQuery, text));
    }
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(PIECES_MAX);
    let tasks = app.tasks().clone();
    let writing = Writing { app, reach, names: HashMap::new(), report: Report::default(), sender };
    tasks.spawn(writing.run(from, until));
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "text/csv")], Body::from_stream(stream)).into_response())
}

/// A report that is being written.
struct Writing {
    app: App,
    reach: Reach,
    /// Names that were looked up, by id; models by the id of their endpoint behind `model `.
    names: HashMap<String, String>,
    report: Report,
    sender: tokio::sync::mpsc::Sender<Result<String, std::io::Error>>,
}

impl Writing {
    async fn run(mut self, from: Date, until: Date) {
        if let Err(error) = self.write(from, until).await {
            tracing::error!(error = %chain(&error), "a cost report broke off");
            // The reader sees a broken transfer rather than a file that looks whole.
            drop(self.sender.send(Err(std::io::Error::other("the report broke off"))).await);
        }
    }

    async fn write(&mut self, from: Date, until: Date) -> Result<(), StoreError> {
        let mut piece = Report::header();
        let mut day = from;
        while day < until {
            let next = day.tomorrow().unwrap_or(until);
            let filter = UsageFilter {
                tenant_id: self.reach.tenant_id,
                project_id: self.reach.project_id,
                from: Some(start_of(day)),
                until: Some(start_of(next)),
            };
            for used in self.app.store().usage_groups(&filter, MICROS_PER_DAY).await? {
                let group = self.named(day, &used).await?;
                self.report.write(&group, &mut piece);
            }
            if !piece.is_empty() && self.sender.send(Ok(std::mem::take(&mut piece))).await.is_err() {
                // Nobody reads any more.
                return Ok(());
            }
            day = next;
        }
        if !piece.is_empty() {
            drop(self.sender.send(Ok(piece)).await);
        }
        Ok(())
    }

    async fn named(&mut self, day: Date, used: &UsageGroup) -> Result<Group, StoreError> {
        Ok(Group {
            day,
            tenant: self.name_of::<Tenant>(used.tenant_id).await?,
            project: self.name_of::<Project>(used.project_id).await?,
            key: self.name_of::<ApiKey>(used.key_id).await?,
            endpoint: self.name_of::<Endpoint>(used.endpoint_id).await?,
            model: self.model_of(used.endpoint_id).await?,
            terms: used.terms,
            batch_percent: used.price_percent,
            energy_method: used.energy_method,
            quantities: used.quantities,
        })
    }

    /// Also of what was deleted since: the charge stays.
    async fn name_of<K: Managed>(&mut self, id: <K as StoreKind>::Id) -> Result<Named, StoreError> {
        let id = id.to_string();
        if let Some(name) = self.names.get(&id) {
            return Ok(Named { name: name.clone(), id });
        }
        let found = name::<K>(&mut self.app.store().reader().await?, &id).await?;
        let name = if found.is_empty() { id.clone() } else { found };
        self.names.insert(id.clone(), name.clone());
        Ok(Named { id, name })
    }

    async fn model_of(&mut self, endpoint_id: EndpointId) -> Result<String, StoreError> {
        let key = format!("model {endpoint_id}");
        if let Some(model) = self.names.get(&key) {
            return Ok(model.clone());
        }
        let model = self.app.store().reader().await?.model_of(endpoint_id).await?;
        self.names.insert(key, model.clone());
        Ok(model)
    }
}
