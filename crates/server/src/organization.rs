//! OpenAI's `/v1/organization/usage/*` and `/v1/organization/costs`: what the ledger has, in their words.
//!
//! The organization is the tenant of the key: all of it for who may read its usage, else the key's own project. Buckets are
//! made from the records, so that an hour is as exact as a day; requests that were charged back are not in them.
//! A model is what callers name in `model`: the endpoint. Money is euros.

use std::collections::{BTreeMap, HashMap};

use axum::Router;
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::response::Response;
use axum::routing::get;
use galerne_api::error::Code;
use galerne_core::authorize::Noun;
use galerne_core::focus;
use galerne_gateway::Refusal;
use galerne_model::ids::EndpointId;
use galerne_model::inference::Endpoint;
use galerne_model::ledger::Operation;
use galerne_store::{UsageFilter, UsageGroup};
use http::Uri;
use jiff::Timestamp;
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::app::App;
use crate::http::caller::{About, Caller, Met};
use crate::http::refusal as ours;
use crate::routes::usage::{Reach, name, reach};
use crate::surface::{self, Surface};
use asked::{Asked, By, Report, Span};

mod asked;

/// What a bucket is asked for.
type Key = BTreeMap<By, String>;

/// The routes of a surface, below its prefix.
pub(crate) fn routes(surface: Surface) -> Router<App> {
    match surface {
        Surface::Mistral => Router::new(),
        Surface::Union | Surface::OpenAi => Router::new()
            .route("/organization/usage/completions", get(completions).fallback(surface::wrong_method))
            .route("/organization/usage/embeddings", get(embeddings).fallback(surface::wrong_method))
            .route("/organization/costs", get(costs).fallback(surface::wrong_method)),
    }
}

/// Somebody who reads about the organization: the key needs the scope `read`, not `inference`.
struct Steward(Caller);

impl FromRequestParts<App> for Steward {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Refusal> {
        let request_id = app.gateway().request_id(parts);
        parts.extensions.insert(Met { request_id, address: None });
        Caller::from_request_parts(parts, app).await.map(Self).map_err(told)
    }
}

/// One of our refusals in the words of the surface; whoever sends it writes the event of a denial.
fn told(refusal: ours::Refusal) -> Refusal {
    match refusal {
        ours::Refusal::Problem(problem) | ours::Refusal::Denied(problem, _) => {
            let hint = problem.hint.map_or_else(String::new, |hint| format!("; hint: {hint}"));
            Refusal::new(problem.code, format!("{}{hint}", problem.detail))
        }
        ours::Refusal::Replay { .. } => Refusal::new(Code::Internal, "an answer of before was repeated"),
    }
}

async fn completions(State(app): State<App>, who: Steward, uri: Uri) -> Result<Response, Refusal> {
    answer(&app, &who.0, Report::Completions, &uri).await
}

async fn embeddings(State(app): State<App>, who: Steward, uri: Uri) -> Result<Response, Refusal> {
    answer(&app, &who.0, Report::Embeddings, &uri).await
}

async fn costs(State(app): State<App>, who: Steward, uri: Uri) -> Result<Response, Refusal> {
    answer(&app, &who.0, Report::Costs, &uri).await
}

async fn answer(app: &App, caller: &Caller, report: Report, uri: &Uri) -> Result<Response, Refusal> {
    let asked = Asked::parse(report, &surface::query(uri)?, App::now().as_second())?;
    let about = About::all("usage", "read");
    let mut reader = app.store().reader().await.map_err(|error| surface::of_store(&error))?;
    let reach = reach(&mut reader, caller, Noun::Usage, &about, None, None).await.map_err(told)?;
    drop(reader);
    let page = asked.page();
    let groups = groups(app, reach, &asked, page.from, page.until).await?;
    let models = models(app, &groups).await?;
    let data = page.spans.iter().map(|span| bucket(*span, &asked, &groups, &models)).collect();
    let next_page = page.next.map(|at| format!("page_{at}"));
    Ok(surface::json(&Answer { object: "page", data, has_more: next_page.is_some(), next_page }))
}

#[derive(Serialize)]
struct Answer {
    object: &'static str,
    data: Vec<Bucket>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize)]
struct Bucket {
    object: &'static str,
    start_time: i64,
    end_time: i64,
    results: Vec<Fields>,
}

/// The fields of a result, in order.
struct Fields(Vec<(&'static str, Field)>);

#[derive(Serialize)]
#[serde(untagged)]
enum Field {
    Text(Option<String>),
    Count(i64),
    Truth(bool),
    Amount { value: Box<RawValue>, currency: &'static str },
}

impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

async fn groups(app: &App, reach: Reach, asked: &Asked, from: i64, until: i64) -> Result<Vec<UsageGroup>, Refusal> {
    let instant = |second: i64| Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
    let filter = UsageFilter {
        tenant_id: reach.tenant_id,
        project_id: reach.project_id,
        from: Some(instant(from)),
        until: Some(instant(until)),
    };
    let width = asked.width.seconds().saturating_mul(1_000_000);
    app.store().usage_groups(&filter, width).await.map_err(|error| surface::of_store(&error))
}

/// The names of the endpoints, also of those that were deleted since.
async fn models(app: &App, groups: &[UsageGroup]) -> Result<HashMap<EndpointId, String>, Refusal> {
    let of_store = |error| surface::of_store(&error);
    let mut reader = app.store().reader().await.map_err(of_store)?;
    let mut models = HashMap::new();
    for group in groups {
        if let std::collections::hash_map::Entry::Vacant(entry) = models.entry(group.endpoint_id) {
            let id = group.endpoint_id.to_string();
            let found = name::<Endpoint>(&mut reader, &id).await.map_err(of_store)?;
            entry.insert(if found.is_empty() { id } else { found });
        }
    }
    Ok(models)
}

/// What is counted of one bucket's group.
#[derive(Debug, Default)]
struct Sum {
    requests: i64,
    input: i64,
    cached: i64,
    output: i64,
    picos: i128,
    tokens: i64,
}

fn bucket(span: Span, asked: &Asked, groups: &[UsageGroup], models: &HashMap<EndpointId, String>) -> Bucket {
    let mut sums: BTreeMap<Key, Sum> = BTreeMap::new();
    // They come in the order of their intervals.
    let from = groups.partition_point(|group| group.started_at.as_second() < span.aligned);
    let own = groups[from..].iter().take_while(|group| group.started_at.as_second() == span.aligned);
    for group in own.filter(|group| counts(asked.report, group)) {
        let model = models.get(&group.endpoint_id).map_or("", String::as_str);
        if !asked.admits(group, model) {
            continue;
        }
        if asked.report != Report::Costs {
            let used = &group.quantities;
            let sum = sums.entry(key(asked, group, model, None)).or_default();
            sum.requests += group.requests;
            sum.input += used.prompt_tokens.0 + used.cached_tokens.0;
            sum.cached += used.cached_tokens.0;
            sum.output += used.completion_tokens.0;
            continue;
        }
        for meter in focus::meters(&group.quantities, group.terms) {
            let item = format!("{model}, {}", line_item(meter.sku));
            if !asked.line_items.is_empty() && !asked.line_items.contains(&item) {
                continue;
            }
            let sum = sums.entry(key(asked, group, model, Some(&item))).or_default();
            sum.picos += meter.billed;
            sum.tokens += meter.tokens;
        }
    }
    let results = sums.iter().map(|(key, sum)| result(asked, key, sum)).collect();
    Bucket { object: "bucket", start_time: span.start, end_time: span.end, results }
}

fn counts(report: Report, group: &UsageGroup) -> bool {
    match (report, group.operation) {
        (Report::Costs, _)
        | (Report::Completions, Operation::Chat | Operation::Completion | Operation::Fim)
        | (Report::Embeddings, Operation::Embedding) => true,
        (Report::Completions, Operation::Embedding | Operation::Tokenise | Operation::Detokenise)
        | (
            Report::Embeddings,
            Operation::Chat | Operation::Completion | Operation::Fim | Operation::Tokenise | Operation::Detokenise,
        ) => false,
    }
}

/// As OpenAI names the lines of its bills.
fn line_item(sku: &str) -> &'static str {
    match sku {
        "input" => "input_tokens",
        "cached-input" => "cached_input_tokens",
        "output" => "output_tokens",
        _ => "tokens",
    }
}

fn key(asked: &Asked, group: &UsageGroup, model: &str, item: Option<&str>) -> Key {
    let text = |by: By| match by {
        By::Project => Some(group.project_id.to_string()),
        By::User => Some(group.principal_id.to_string()),
        By::ApiKey => Some(group.key_id.to_string()),
        By::Model => Some(model.to_owned()),
        By::Batch => Some(group.price_percent.is_some().to_string()),
        By::ServiceTier => group.terms.map(|terms| terms.service_tier.as_str().to_owned()),
        By::LineItem => item.map(str::to_owned),
    };
    asked.group_by.iter().filter_map(|by| Some((*by, text(*by)?))).collect()
}

fn result(asked: &Asked, key: &Key, sum: &Sum) -> Fields {
    let of = |by: By| Field::Text(key.get(&by).cloned());
    let object = |name: &str| ("object", Field::Text(Some(format!("organization.{name}.result"))));
    let whose = [("project_id", of(By::Project)), ("user_id", of(By::User)), ("api_key_id", of(By::ApiKey))];
    let mut fields = match asked.report {
        Report::Completions => vec![
            object("usage.completions"),
            ("input_tokens", Field::Count(sum.input)),
            ("input_cached_tokens", Field::Count(sum.cached)),
            ("output_tokens", Field::Count(sum.output)),
            ("input_audio_tokens", Field::Count(0)),
            ("output_audio_tokens", Field::Count(0)),
            ("num_model_requests", Field::Count(sum.requests)),
            ("model", of(By::Model)),
            ("batch", key.get(&By::Batch).map_or(Field::Text(None), |batch| Field::Truth(batch == "true"))),
            ("service_tier", of(By::ServiceTier)),
        ],
        Report::Embeddings => vec![
            object("usage.embeddings"),
            ("input_tokens", Field::Count(sum.input)),
            ("num_model_requests", Field::Count(sum.requests)),
            ("model", of(By::Model)),
        ],
        Report::Costs => {
            // The text is exact; what a program reads it into may be a float.
            let value = RawValue::from_string(focus::euros(sum.picos)).expect("a decimal is a number of JSON");
            let is_item = asked.group_by.contains(&By::LineItem);
            let (quantity, unit) =
                if is_item { (Field::Count(sum.tokens), Some("tokens".to_owned())) } else { (Field::Text(None), None) };
            vec![
                object("costs"),
                ("amount", Field::Amount { value, currency: "eur" }),
                ("line_item", of(By::LineItem)),
                ("quantity", quantity),
                ("quantity_unit", Field::Text(unit)),
            ]
        }
    };
    fields.extend(whose);
    Fields(fields)
}
