//! Admission: the endpoint by name, rates, budgets, and the hold in the spool. All of them, or none.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use galerne_api::error::Code;
use galerne_core::admission::{Limit, Permit, RateBook, RateRefused, Subject};
use galerne_core::budget::{self, Ask, BudgetRefused, HoldError, Payer};
use galerne_core::rating::WorkBound;
use galerne_model::identity::RateLimits;
use galerne_model::ids::RequestId;
use galerne_model::inference::Visibility;
use galerne_model::ledger::Operation;
use galerne_model::money::{Amounts, Commodity};
use galerne_model::snapshot::{BudgetEntry, EndpointEntry, KeyEntry, Snapshot};
use galerne_model::units::Tokens;

use crate::config::{Closed, Place, Shared};
use crate::link::ALONE_MAX;
use crate::models;
use crate::refusal::{Headers, Refusal};
use crate::request::Asked;
use crate::spool::{Hold, SpoolFull};
use crate::ticket::{Reserved, Ticket};

/// Wait proposed when a request is refused because of seats, which no clock frees.
const SEAT_WAIT: Duration = Duration::from_secs(1);
/// Wait proposed when the spool or a budget's numbers are not ready.
const RECORDING_WAIT: Duration = Duration::from_secs(5);

/// The endpoint `asked` names, if this key may call it.
pub(crate) fn find_endpoint(
    snapshot: &Snapshot,
    key: &KeyEntry,
    asked: &Asked<'_>,
) -> Result<Arc<EndpointEntry>, Refusal> {
    let name = &asked.model;
    let Some(endpoint) = visible(snapshot, key).find(|endpoint| endpoint.name == *name) else {
        return Err(models::not_found(snapshot, key, name));
    };
    let can = match asked.operation {
        Operation::Chat | Operation::Completion | Operation::Fim => endpoint.can_chat,
        Operation::Embedding => endpoint.can_embed,
        Operation::Tokenise | Operation::Detokenise => true,
    };
    if !can {
        let does = if endpoint.can_embed { "makes embeddings" } else { "answers chats and completions" };
        return Err(Refusal::new(Code::OperationNotSupported, format!("`{name}` {does} only")).param("model"));
    }
    if endpoint.paused {
        let text = format!("endpoint `{name}` is paused; hint: galerne endpoint resume {name}");
        return Err(Refusal::new(Code::EndpointPaused, text).retry_after(Duration::from_secs(60)));
    }
    Ok(Arc::clone(endpoint))
}

/// Endpoints this key may call. A project's own come first, so that another's endpoint of the same name hides none.
pub(crate) fn visible<'a>(snapshot: &'a Snapshot, key: &'a KeyEntry) -> impl Iterator<Item = &'a Arc<EndpointEntry>> {
    let rank = |endpoint: &EndpointEntry| {
        if endpoint.project_id == key.project_id {
            Some(0)
        } else if endpoint.tenant_id == key.tenant_id && endpoint.visibility != Visibility::Project {
            Some(1)
        } else {
            (endpoint.visibility == Visibility::Site).then_some(2)
        }
    };
    (0..3).flat_map(move |wanted| snapshot.endpoints.values().filter(move |endpoint| rank(endpoint) == Some(wanted)))
}

/// Admits a request, or says which limit it met. Nothing stays reserved after a refusal.
pub(crate) fn admit(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    key: &KeyEntry,
    endpoint: &Arc<EndpointEntry>,
    asked: &Asked<'_>,
    request_id: RequestId,
    place: Place,
) -> Result<(Ticket, Headers), Refusal> {
    shared.may_admit().map_err(closed)?;
    let now = shared.now();
    let subjects = subjects(snapshot, key, endpoint);
    let payer = Payer { tenant_id: key.tenant_id, project_id: key.project_id, line_id: snapshot.line_of(key.id) };
    let budgets = budgets_above(snapshot, payer);
    if let (false, Some(budget)) = (shared.spends_budgets(), budgets.first()) {
        return Err(budget_elsewhere(budget));
    }
    let ask = Ask {
        price: &endpoint.price,
        work: asked.bound(endpoint.context_tokens),
        energy: endpoint.energy_bound,
        intensity_mg_per_kwh: snapshot.energy.intensity_mg_per_kwh,
    };
    let (permit, hold, rate_headers) = {
        let mut books = shared.books();
        let permit = books.rates.admit(&subjects, asked.estimate(endpoint.context_tokens), now);
        let rate_headers = rate_headers(&books.rates, &subjects);
        let permit = permit.map_err(|refused| rate_refusal(refused, rate_headers.clone()))?;
        match books.budgets.try_hold(payer, &budgets, &ask, now) {
            Ok(hold) => (permit, hold, rate_headers),
            Err(error) => {
                books.rates.cancel(permit);
                let prompt_alone = WorkBound { completion_max: Tokens(0), ..ask.work };
                return Err(hold_refusal(&error, &endpoint.name, ask.worst_case(prompt_alone).ok()));
            }
        }
    };
    let entry = Hold {
        request_id,
        started_at: hold.admitted_at(),
        tenant_id: key.tenant_id,
        project_id: key.project_id,
        principal_id: key.principal_id,
        key_id: key.id,
        endpoint_id: endpoint.id,
        operation: asked.operation,
        held_micros: hold.amount(),
        price_book_id: endpoint.price_book_id,
    };
    if let Err(full) = shared.spool.admit(entry.clone()) {
        give_back(shared, permit, hold);
        return Err(spool_refusal(full));
    }
    let reserved = Reserved { hold: entry, money: hold, permit, place };
    Ok((Ticket::new(shared, reserved, endpoint, snapshot.energy), rate_headers))
}

fn budget_elsewhere(budget: &BudgetEntry) -> Refusal {
    let text = format!(
        "budget `{}` limits this key, and only the gateway inside `galerne up` spends from budgets; hint: send the request to the control plane's address",
        budget.name
    );
    Refusal::new(Code::NotServed, text)
}

fn closed(why: Closed) -> Refusal {
    let refusal = match why {
        Closed::LeaseLost => {
            let text = "this server does not hold the lease of its database now, so nothing is admitted";
            Refusal::new(Code::LeaseLost, text)
        }
        Closed::ControlPlaneAway => {
            let minutes = ALONE_MAX.as_secs() / 60;
            let text = format!(
                "this gateway has not heard its control plane for {minutes} minutes or is let in no more, so nothing is admitted; hint: its log says why"
            );
            Refusal::new(Code::ControlPlaneAway, text)
        }
    };
    refusal.retry_after(RECORDING_WAIT)
}

fn give_back(shared: &Shared, permit: Permit, hold: budget::Hold) {
    let mut books = shared.books();
    books.rates.cancel(permit);
    books.budgets.void(hold);
}

fn subjects(snapshot: &Snapshot, key: &KeyEntry, endpoint: &EndpointEntry) -> Vec<(Subject, RateLimits)> {
    let project = snapshot.projects.get(&key.project_id).copied().unwrap_or_default();
    let all = [
        (Subject::Key(key.id), key.limits),
        (Subject::Project(key.project_id), project),
        (Subject::Endpoint(endpoint.id), endpoint.limits),
    ];
    all.into_iter().filter(|(_, limits)| *limits != RateLimits::default()).collect()
}

/// Looked up, not searched: a site has a budget for each of thousands of keys.
fn budgets_above(snapshot: &Snapshot, payer: Payer) -> Vec<&BudgetEntry> {
    payer.subjects().iter().filter_map(|subject| snapshot.budgets.get(subject)).flatten().collect()
}

fn rate_refusal(refused: RateRefused, headers: Headers) -> Refusal {
    let mut refusal = Refusal::new(Code::RateLimited, refused.to_string());
    refusal.retry_after = match (refused.limit, refused.retry_after_micros) {
        (_, Some(micros)) => Some(Duration::from_micros(micros.unsigned_abs())),
        (Limit::Concurrency(most), None) if most > 0 => Some(SEAT_WAIT),
        (Limit::Concurrency(_) | Limit::Requests(_) | Limit::Tokens(_), None) => None,
    };
    refusal.headers = headers;
    refusal
}

/// OpenAI's rate headers, for the subject that has the least left.
fn rate_headers(rates: &RateBook, subjects: &[(Subject, RateLimits)]) -> Headers {
    let mut headers = Headers::new();
    let requests = subjects
        .iter()
        .filter_map(|(subject, limits)| Some((rates.remaining(*subject).requests?, limits.requests_per_minute?)));
    let tokens = subjects
        .iter()
        .filter_map(|(subject, limits)| Some((rates.remaining(*subject).tokens?, limits.tokens_per_minute?)));
    if let Some((left, limit)) = requests.min() {
        push(
            &mut headers,
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"],
            left,
            limit,
        );
    }
    if let Some((left, limit)) = tokens.min() {
        push(
            &mut headers,
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"],
            left,
            limit,
        );
    }
    headers
}

fn push(headers: &mut Headers, names: [&'static str; 3], left: u32, limit: u32) {
    // A bucket of one minute's worth is full again after the missing part of a minute.
    let reset_ms = u64::from(limit.saturating_sub(left)) * 60_000 / u64::from(limit.max(1));
    let values = [limit.to_string(), left.to_string(), format!("{reset_ms}ms")];
    for (name, value) in names.into_iter().zip(values) {
        let value = HeaderValue::from_str(&value).expect("digits are a header value");
        headers.push((HeaderName::from_static(name), value));
    }
}

/// `prompt` is what the prompt may cost without any answer.
fn hold_refusal(error: &HoldError, endpoint: &str, prompt: Option<Amounts>) -> Refusal {
    match error {
        HoldError::Refused(refused) => budget_refusal(refused, prompt),
        HoldError::NotLoaded { .. } => {
            Refusal::new(Code::Overloaded, format!("{error}; this passes in a moment")).retry_after(SEAT_WAIT)
        }
        HoldError::Unmetered { .. } => {
            let text = format!("{error}; hint: `galerne explain energy_unknown` says what makes `{endpoint}` metered");
            Refusal::new(Code::EnergyUnknown, text).param("model")
        }
        HoldError::Unpriceable(reason) => Refusal::new(Code::Internal, format!("{error}: {reason}")),
    }
}

fn budget_refusal(refused: &BudgetRefused, prompt: Option<Amounts>) -> Refusal {
    let (name, commodity) = (&refused.name, refused.commodity);
    let left = commodity.text(refused.available);
    let raise = format!("have the limit raised: galerne budget set {name} {}", commodity.option());
    let ways = match (refused.fits_max_tokens, prompt) {
        (Some(tokens), _) if tokens.0 > 0 => {
            format!("{left} are left; hint: send `max_tokens` of {} or less, or {raise}", tokens.0)
        }
        (_, Some(prompt)) if prompt.of(commodity) > refused.available => {
            let prompt = commodity.text(prompt.of(commodity));
            let takes = if commodity == Commodity::Money { "cost" } else { "take" };
            format!(
                "{left} are left, and its prompt alone may {takes} {prompt}; hint: send a shorter prompt, or {raise}"
            )
        }
        (_, Some(_) | None) => format!("{left} are left; hint: {raise}"),
    };
    let resets = refused.resets_at.map_or_else(String::new, |at| format!("; the budget starts again at {at}"));
    let mut refusal = Refusal::new(Code::BudgetExhausted, format!("{refused}; {ways}{resets}")).param("max_tokens");
    for (name, number) in budget_headers(commodity).into_iter().zip([refused.limit, refused.available, refused.asked]) {
        refusal.headers.push((HeaderName::from_static(name), HeaderValue::from(number)));
    }
    refusal
}

/// Limit, what is left, what was asked.
const fn budget_headers(commodity: Commodity) -> [&'static str; 3] {
    match commodity {
        Commodity::Money => {
            ["x-galerne-budget-limit-micros", "x-galerne-budget-available-micros", "x-galerne-budget-asked-micros"]
        }
        Commodity::Energy => [
            "x-galerne-budget-limit-millijoules",
            "x-galerne-budget-available-millijoules",
            "x-galerne-budget-asked-millijoules",
        ],
        Commodity::Carbon => [
            "x-galerne-budget-limit-co2e-micrograms",
            "x-galerne-budget-available-co2e-micrograms",
            "x-galerne-budget-asked-co2e-micrograms",
        ],
    }
}

fn spool_refusal(full: SpoolFull) -> Refusal {
    Refusal::new(Code::MeterFull, format!("usage cannot be recorded now, so nothing is admitted: {full}"))
        .retry_after(RECORDING_WAIT)
}
