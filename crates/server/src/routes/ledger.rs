//! The ledger: balances, transfers, check, reversal, export, readings.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use galerne_api::error::Code;
use galerne_api::v1::Page;
use galerne_api::v1::ledger::{
    ExportFormat, ExportOf, Forsake, Forsaken, FreedShare, LedgerCheck, LedgerFinding, Reverse, Reversed, Transfer,
};
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::{Project, Scope};
use galerne_model::ids::TransferId;
use galerne_model::ledger::{Balance, Owner, Reading};
use galerne_model::limits::{PAGE_MAX, TEXT_MAX_CHARS};
use galerne_model::money::Amounts;
use galerne_store::{Filter, ListedTransfer, StoreError, TransferKey, UsageFilter};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};
use std::time::Instant;
use utoipa::PartialSchema;
use utoipa_axum::router::OpenApiRouter;

use super::usage::{day, reach, start_of};
use crate::app::{App, lending};
use crate::http::body::{Json, Params, Segment, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::paging::{self, ListParams, PageParams};
use crate::http::refusal::{Refusal, chain};
use crate::http::write::{Terms, Told, Write};

/// Pieces of an export that wait for a slow reader.
const EXPORT_PIECES_MAX: usize = 4;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportParams {
    of: ExportOf,
    #[serde(default)]
    format: ExportFormat,
    tenant: Option<String>,
    project: Option<String>,
    from: Option<String>,
    until: Option<String>,
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = op::get("/api/v1/ledger/balances", "list_balances", "what every owner has")
        .placed()
        .answers_page::<Balance>()
        .on(router, balances);
    let router = op::get("/api/v1/ledger/transfers", "list_transfers", "entries of the ledger, by owner")
        .placed()
        .answers_page::<Transfer>()
        .on(router, transfers);
    let router = op::get("/api/v1/readings", "list_readings", "what the energy meters of nodes said, newest first")
        .answers_page::<Reading>()
        .on(router, readings);
    let router = op::post("/api/v1/ledger/check", "check_ledger", "prove that every sum is equal")
        .answers::<LedgerCheck>(200)
        .on(router, check);
    let router = op::post(
        "/api/v1/ledger/transfers/{id}/reverse",
        "reverse_transfer",
        "cancel a transfer of a usage record by its opposite",
    )
    .body::<Reverse>()
    .answers::<Reversed>(201)
    .answers::<Reversed>(200)
    .on(router, reverse);
    let router = op::post("/api/v1/spools/{id}/forsake", "forsake_spool", "give up a gateway's spool that is lost")
        .body::<Forsake>()
        .answers::<Forsaken>(200)
        .on(router, forsake);
    op::get("/api/v1/ledger/export", "export_ledger", "everything, as CSV or as one JSON object per line")
        .placed()
        .queries(&[("from", "first day, `YYYY-MM-DD` in UTC"), ("until", "day after the last, `YYYY-MM-DD` in UTC")])
        .query("of", "what to export", ExportOf::schema())
        .query("format", "how to write it", ExportFormat::schema())
        .answers_media("text/csv")
        .on(router, export)
}

async fn balances(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let about = About::all("ledger", "read");
    let reach =
        reach(&mut reader, &caller, Noun::Ledger, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    let inside: Option<Vec<_>> = match (reach.tenant_id, reach.project_id) {
        (None, None) => None,
        (_, Some(project_id)) => Some(vec![project_id]),
        (Some(tenant_id), None) => {
            let projects = reader.list_all::<Project>(&Filter::tenant(tenant_id)).await?;
            Some(projects.into_iter().map(|project| project.id).collect())
        }
    };
    // A tenant sees its own accounts; the meter, idle energy and overhead are the site's.
    let visible = |balance: &Balance| match (&inside, balance.owner) {
        (None, _) => true,
        (Some(projects), Owner::Project { project_id }) => projects.contains(&project_id),
        (Some(_), Owner::Meter | Owner::Idle | Owner::Overhead | Owner::Apportionment | Owner::Overrun) => false,
    };
    let all: Vec<Balance> = reader.balances().await?.into_iter().filter(visible).collect();
    let page = paging::cut(all, &PageParams { limit: params.limit, cursor: params.cursor })?;
    Ok(answer(StatusCode::OK, &page))
}

async fn transfers(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Refusal> {
    let limit = paging::limit(params.limit)?;
    let mut reader = app.store().reader().await?;
    let about = About::all("ledger", "read");
    let reach =
        reach(&mut reader, &caller, Noun::Ledger, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    drop(reader);
    // Transfers are kept by project: a tenant names one of its own, the site sees all.
    let project_id = match (reach.tenant_id, reach.project_id) {
        (None, _) | (Some(_), Some(_)) => reach.project_id,
        (Some(tenant_id), None) if tenant_id == caller.tenant_id => Some(caller.project_id),
        (Some(_), None) => {
            return Err(Refusal::new(
                Code::InvalidQuery,
                "say whose: `project=NAME`, or `tenant=*` for the whole site",
            ));
        }
    };
    let after = params.cursor.as_deref().map(transfer_key).transpose()?;
    let listed = app.store().transfers_page(project_id, after, limit).await?;
    let full = listed.len() == limit as usize;
    let next_cursor = listed.last().filter(|_| full).map(|last| last.key.map(|part| part.to_string()).join("."));
    let items: Vec<Transfer> = listed.iter().map(shown).collect();
    Ok(answer(StatusCode::OK, &Page { items, next_cursor }))
}

fn shown(listed: &ListedTransfer) -> Transfer {
    let ListedTransfer { id, kind, from, to, quantities, source, sequence, key: _ } = *listed;
    Transfer { id, kind, from, to, quantities, source, sequence }
}

fn transfer_key(cursor: &str) -> Result<TransferKey, Refusal> {
    let parts: Option<Vec<i64>> = cursor.split('.').map(|part| part.parse().ok()).collect();
    let key: Option<TransferKey> = parts.and_then(|parts| parts.try_into().ok());
    key.ok_or_else(|| {
        Refusal::new(Code::InvalidCursor, "`cursor` is not one that this list handed out")
            .hint("start again without `cursor`")
    })
}

async fn readings(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<PageParams>,
) -> Result<Response, Refusal> {
    caller.may(Verb::Read, Noun::Ledger, Scope::Site, &About::all("ledger", "read"))?;
    let limit = paging::limit(params.limit)?;
    let before = paging::sequence(params.cursor.as_deref())?;
    let listed = app.store().readings_page(before, limit).await?;
    let full = listed.len() == limit as usize;
    let next_cursor = listed.last().filter(|_| full).map(|(number, _)| number.to_string());
    let items: Vec<Reading> = listed.into_iter().map(|(_, reading)| reading).collect();
    Ok(answer(StatusCode::OK, &Page { items, next_cursor }))
}

/// Reads only; a POST because it works for seconds. It looks at all tenants' rows, so it is the site's.
async fn check(State(app): State<App>, caller: Caller, _terms: Terms) -> Result<Response, Refusal> {
    caller.may(Verb::Read, Noun::Ledger, Scope::Site, &About::all("ledger", "check"))?;
    let started = Instant::now();
    let report = app.store().ledger_check().await?;
    let took_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
    let body = LedgerCheck {
        closes: report.closes(),
        usage_records: report.records,
        transfers: report.transfers,
        readings: report.readings,
        projects: i64::try_from(report.projects).unwrap_or(i64::MAX),
        usage: report.usage,
        metered: report.metered,
        findings: report
            .findings
            .into_iter()
            .map(|finding| LedgerFinding { code: finding.code.to_owned(), text: finding.text })
            .collect(),
        took_ms,
    };
    Ok(answer(StatusCode::OK, &body))
}

/// Corrections are the operator's: whoever sets prices answers for charges.
async fn reverse(
    State(app): State<App>,
    caller: Caller,
    Segment(text): Segment,
    terms: Terms,
    Json { value: asked, digest }: Json<Reverse>,
) -> Result<Response, Refusal> {
    let about = About { noun: "ledger", verb: "reverse", name: &text, id: Some(text.clone()) };
    caller.may(Verb::Create, Noun::PriceBook, Scope::Site, &about)?;
    if asked.reason.is_empty() || asked.reason.chars().count() > TEXT_MAX_CHARS {
        return Err(Refusal::invalid("reason", format!("say why, in 1 to {TEXT_MAX_CHARS} characters")));
    }
    let of: TransferId = text.parse().map_err(|_| Refusal::not_found("transfer", &text))?;
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let now = write.now;
    let by = match write.tx.reverse(of, now).await {
        Err(StoreError::NotFound { .. }) => return Err(Refusal::not_found("transfer", &text)),
        other => other?,
    };
    write.record(Told {
        action: "ledger.reverse".to_owned(),
        tenant_id: None,
        project_id: None,
        resource: &text,
        before: None,
        after: None,
        text: format!("reversed {of} by {by}: {}", asked.reason),
    });
    let by = Some(by).filter(|_| !terms.dry_run);
    write.finish(StatusCode::CREATED, &Reversed { of, by }).await
}

/// Gives up the spool of a gateway that does not come back. Refused while the gateway may still spend of its shares.
async fn forsake(
    State(app): State<App>,
    caller: Caller,
    Segment(text): Segment,
    terms: Terms,
    Json { value: asked, digest }: Json<Forsake>,
) -> Result<Response, Refusal> {
    let about = About { noun: "ledger", verb: "forsake", name: &text, id: Some(text.clone()) };
    caller.may(Verb::Create, Noun::PriceBook, Scope::Site, &about)?;
    if asked.reason.is_empty() || asked.reason.chars().count() > TEXT_MAX_CHARS {
        return Err(Refusal::invalid("reason", format!("say why, in 1 to {TEXT_MAX_CHARS} characters")));
    }
    let spool: i64 = text.parse().map_err(|_| Refusal::not_found("spool", &text))?;
    let turn = lending::turn_to_forsake(&app, spool).await?;
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let now = write.now;
    let was = match write.tx.forsake_spool(spool, now).await {
        Err(StoreError::NotFound { .. }) => return Err(Refusal::not_found("spool", &text)),
        other => other?,
    };
    write.record(Told {
        action: "ledger.forsake".to_owned(),
        tenant_id: None,
        project_id: None,
        resource: &text,
        before: None,
        after: None,
        text: format!("spool {spool} is given up, settled up to record {}: {}", was.settled_sequence, asked.reason),
    });
    let freed =
        was.shares.iter().map(|share| FreedShare { budget_id: share.budget_id, amounts: share.share.rounded_down() });
    let freed = freed.filter(|freed| freed.amounts != Amounts::default()).collect();
    let answer = write.finish(StatusCode::OK, &Forsaken { spool, freed }).await?;
    if !terms.dry_run {
        turn.done(was.number);
    }
    Ok(answer)
}

/// Streams: memory stays bounded however much there is.
async fn export(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ExportParams>,
) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let about = About::all("ledger", "export");
    let noun = if params.of == ExportOf::Usage { Noun::Usage } else { Noun::Ledger };
    let mut reach =
        reach(&mut reader, &caller, noun, &about, params.tenant.as_deref(), params.project.as_deref()).await?;
    drop(reader);
    if params.of == ExportOf::Readings {
        caller.may(Verb::Read, Noun::Ledger, Scope::Site, &about)?;
    }
    if params.of == ExportOf::Transfers && reach.tenant_id.is_some() && reach.project_id.is_none() {
        reach.project_id = Some(caller.project_id);
    }
    let filter = UsageFilter {
        tenant_id: reach.tenant_id,
        project_id: reach.project_id,
        from: day("from", params.from.as_deref())?.map(start_of),
        until: day("until", params.until.as_deref())?.map(start_of),
    };
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<String, std::io::Error>>(EXPORT_PIECES_MAX);
    let export = Export { app: app.clone(), of: params.of, format: params.format, filter, sender };
    app.tasks().spawn(export.run());
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|piece| (piece, receiver))
    });
    let media = match params.format {
        ExportFormat::Csv => "text/csv",
        ExportFormat::Json => "application/x-ndjson",
    };
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, media)], Body::from_stream(stream)).into_response())
}

/// An export that is being written.
struct Export {
    app: App,
    of: ExportOf,
    format: ExportFormat,
    filter: UsageFilter,
    sender: tokio::sync::mpsc::Sender<Result<String, std::io::Error>>,
}

impl Export {
    async fn run(self) {
        let written = match self.of {
            ExportOf::Usage => self.usage().await,
            ExportOf::Transfers => self.transfers().await,
            ExportOf::Readings => self.readings().await,
        };
        if let Err(error) = written {
            tracing::error!(error = %chain(&error), "an export broke off");
            // The reader sees a broken transfer rather than a file that looks whole.
            drop(self.sender.send(Err(std::io::Error::other("the export broke off"))).await);
        }
    }

    /// Whether anybody still reads.
    async fn send(&self, piece: String) -> bool {
        piece.is_empty() || self.sender.send(Ok(piece)).await.is_ok()
    }

    async fn usage(&self) -> Result<(), StoreError> {
        if self.format == ExportFormat::Csv && !self.send(format!("{}\n", galerne_store::csv_header())).await {
            return Ok(());
        }
        let mut cursor = self.app.store().usage(&self.filter);
        while let Some(records) = cursor.next().await? {
            let piece = match self.format {
                ExportFormat::Csv => {
                    records.iter().map(|record| galerne_store::csv_line(record).trim_end().to_owned() + "\n").collect()
                }
                ExportFormat::Json => lines(&records),
            };
            if !self.send(piece).await {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn transfers(&self) -> Result<(), StoreError> {
        const HEADER: &str = "id,kind,from,to,prompt_tokens,cached_tokens,completion_tokens,euros,picos,joules,co2e_grams,source,sequence\n";
        if self.format == ExportFormat::Csv && !self.send(HEADER.to_owned()).await {
            return Ok(());
        }
        let mut after = None;
        loop {
            let listed = self.app.store().transfers_page(self.filter.project_id, after, PAGE_MAX).await?;
            let Some(last) = listed.last() else { return Ok(()) };
            after = Some(last.key);
            let rows: Vec<Transfer> = listed.iter().map(shown).collect();
            let piece = match self.format {
                ExportFormat::Csv => rows.iter().map(transfer_line).collect(),
                ExportFormat::Json => lines(&rows),
            };
            if !self.send(piece).await {
                return Ok(());
            }
        }
    }

    async fn readings(&self) -> Result<(), StoreError> {
        const HEADER: &str =
            "id,node_id,started_at,ended_at,joules,method,busy_cpu_micros,zone,intensity_mg_per_kwh,replica_id\n";
        if self.format == ExportFormat::Csv && !self.send(HEADER.to_owned()).await {
            return Ok(());
        }
        let mut before = None;
        loop {
            let listed = self.app.store().readings_page(before, PAGE_MAX).await?;
            let Some((number, _)) = listed.last() else { return Ok(()) };
            before = Some(*number);
            let inside = |reading: &Reading| {
                self.filter.from.is_none_or(|from| reading.started_at >= from)
                    && self.filter.until.is_none_or(|until| reading.started_at < until)
            };
            let rows: Vec<Reading> = listed.into_iter().map(|(_, reading)| reading).filter(inside).collect();
            let piece = match self.format {
                ExportFormat::Csv => rows.iter().map(reading_line).collect(),
                ExportFormat::Json => lines(&rows),
            };
            if !self.send(piece).await {
                return Ok(());
            }
        }
    }
}

fn lines<T: Serialize>(rows: &[T]) -> String {
    rows.iter().map(|row| crate::http::body::text(row) + "\n").collect()
}

fn word<T: Serialize>(value: &T) -> String {
    crate::http::body::text(value).trim_matches('"').to_owned()
}

fn owner_word(owner: Owner) -> String {
    match owner {
        Owner::Project { project_id } => project_id.to_string(),
        Owner::Meter => "meter".to_owned(),
        Owner::Idle => "idle".to_owned(),
        Owner::Overhead => "overhead".to_owned(),
        Owner::Apportionment => "apportionment".to_owned(),
        Owner::Overrun => "overrun".to_owned(),
    }
}

fn transfer_line(row: &Transfer) -> String {
    let q = &row.quantities;
    format!(
        "{},{},{},{},{},{},{},{},{},{},{},{},{}\n",
        row.id,
        word(&row.kind),
        owner_word(row.from),
        owner_word(row.to),
        q.prompt_tokens.0,
        q.cached_tokens.0,
        q.completion_tokens.0,
        q.micros.euros(),
        q.picos.0,
        q.millijoules.joules(),
        q.co2e_micrograms.grams(),
        row.source,
        row.sequence
    )
}

fn reading_line(row: &Reading) -> String {
    format!(
        "{},{},{},{},{},{},{},{},{},{}\n",
        row.id,
        row.node_id,
        row.started_at,
        row.ended_at,
        row.millijoules.joules(),
        word(&row.method),
        row.busy_cpu_micros,
        row.zone,
        row.intensity_mg_per_kwh,
        row.replica_id.map(|id| id.to_string()).unwrap_or_default()
    )
}
