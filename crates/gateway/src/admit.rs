//! Admission: the endpoint by name, rates, budgets, and the hold in the spool. All of them, or none.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use galerne_api::error::Code;
use galerne_core::admission::Permit;
use galerne_core::budget::{self, Ask, BudgetBook, BudgetRefused, HoldError, Payer};
use galerne_core::rating::WorkBound;
use galerne_model::ids::{BudgetId, RequestId};
use galerne_model::inference::Visibility;
use galerne_model::ledger::Operation;
use galerne_model::money::{Amounts, Commodity};
use galerne_model::snapshot::{BudgetEntry, EndpointEntry, KeyEntry, Snapshot};
use galerne_model::units::Tokens;
use jiff::Timestamp;

use crate::config::{Closed, Place, Shared};
use crate::line::Seat;
use crate::link::ALONE_MAX;
use crate::rates::{self, SEAT_WAIT};
use crate::refusal::{Headers, Refusal};
use crate::request::Asked;
use crate::shares::{Lack, Patience, Verdict};
use crate::spool::{Hold, SpoolFull};
use crate::ticket::{Reserved, Ticket};
use crate::{models, route};

/// The shortest answer that a stream is cut to: less is of no use to anybody, and a refusal says what is left.
const CUT_MIN_TOKENS: u32 = 256;
/// After how many tokens each answer ends, where a budget ends it.
const CUT_TOKENS: HeaderName = HeaderName::from_static("x-galerne-cut-tokens");

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

/// What a request has before it is admitted: its place in this process, and its seat at the endpoint.
pub(crate) struct Room {
    pub(crate) place: Place,
    pub(crate) seat: Option<Seat>,
}

/// Admits a request, or says which limit it met; waits shortly for a share of a budget. Nothing stays reserved after a
/// refusal.
pub(crate) async fn admit(
    shared: &Arc<Shared>,
    snapshot: &Snapshot,
    key: &KeyEntry,
    endpoint: &Arc<EndpointEntry>,
    asked: &mut Asked<'_>,
    request_id: RequestId,
    room: Room,
) -> Result<(Ticket, Headers), Refusal> {
    let payer = Payer { tenant_id: key.tenant_id, project_id: key.project_id, line_id: snapshot.line_of(key.id) };
    let under = Under { payer, budgets: budgets_above(snapshot, payer) };
    let mut patience = None;
    let (permit, hold, tokens_max, headers) = loop {
        shared.may_admit().map_err(closed)?;
        if !under.budgets.is_empty() && !shared.shares.are_in_force() {
            return Err(control_plane_silent());
        }
        match hold(shared, snapshot, key, endpoint, asked, &under, patience.as_ref()) {
            Ok(held) => break held,
            Err(Denied::Refused(refusal)) => return Err(*refusal),
            Err(Denied::Lacks(lack)) => shared.shares.wait(lack, &mut patience).await,
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
        batch: asked.batch,
    };
    if let Err(full) = shared.spool.admit(entry.clone()) {
        give_back(shared, permit, hold);
        return Err(spool_refusal(full));
    }
    let Room { place, seat } = room;
    let reserved = Reserved { hold: entry, money: hold, permit, tokens_max, place, seat };
    Ok((Ticket::new(shared, reserved, endpoint, asked.tier.unwrap_or_default(), snapshot.energy), headers))
}

/// Who pays, and the budgets that count it.
struct Under<'a> {
    payer: Payer,
    budgets: Vec<&'a BudgetEntry>,
}

/// Why nothing was held.
enum Denied {
    Refused(Box<Refusal>),
    /// It may be held once this gateway has more of a budget.
    Lacks(Lack),
}

/// Holds under rates and budgets, or under none of them. With the hold comes the most tokens that the request can use.
fn hold(
    shared: &Shared,
    snapshot: &Snapshot,
    key: &KeyEntry,
    endpoint: &EndpointEntry,
    asked: &mut Asked<'_>,
    under: &Under<'_>,
    patience: Option<&Patience>,
) -> Result<(Permit, budget::Hold, u32, Headers), Denied> {
    let refused = |refusal| Denied::Refused(Box::new(refusal));
    let now = shared.now();
    let subjects = rates::subjects(snapshot, key, endpoint);
    let Under { payer, budgets } = under;
    // Others may answer in its place, at prices of their own.
    let (price, context, energy) = route::most(snapshot, endpoint);
    let ask = Ask {
        price: &price,
        work: asked.bound(context),
        energy,
        intensity_mg_per_kwh: snapshot.energy.intensity_mg_per_kwh,
    };
    let mut books = shared.books();
    let permit = books.rates.admit(&subjects, asked.estimate(endpoint.context_tokens), now);
    let mut headers = rates::headers(&books.rates, &subjects);
    let permit = permit.map_err(|limited| refused(rates::refusal(limited, headers.clone())))?;
    let mut held = books.budgets.try_hold(*payer, budgets, &ask, now);
    let verdict = match &held {
        Err(error) => lack(shared, &mut books.budgets, error, budgets, &ask, patience, now),
        Ok(_) => Ok(()),
    };
    if let Err(Denied::Lacks(lack)) = verdict {
        books.rates.cancel(permit);
        return Err(Denied::Lacks(lack));
    }
    if let (Err(error), Ok(())) = (&held, &verdict)
        && let Some(cut) = cut_to_fit(asked, error)
    {
        asked.cut_at(cut);
        headers.push((CUT_TOKENS, HeaderValue::from(cut)));
        let work = asked.bound(context);
        held = books.budgets.try_hold(*payer, budgets, &Ask { work, ..ask }, now);
    }
    let mut refusal = match (held, verdict) {
        (Ok(hold), _) => {
            shared.shares.took(budgets.iter().map(|entry| entry.id), &hold.amounts());
            let tokens_max = u32::try_from(ask.work.total_max.0).unwrap_or(u32::MAX);
            return Ok((permit, hold, tokens_max, headers));
        }
        (Err(_), Err(Denied::Refused(refusal))) => *refusal,
        (Err(error), _) => {
            let prompt_alone = WorkBound { completion_max: Tokens(0), ..ask.work };
            hold_refusal(&error, &endpoint.name, ask.worst_case(prompt_alone).ok())
        }
    };
    books.rates.cancel(permit);
    refusal.headers.extend(rates::headers(&books.rates, &subjects));
    Err(refused(refusal))
}

/// Whether a hold that was not given is worth a wait for a share: then what for. It is an error of its own when the share
/// did not come in time.
fn lack(
    shared: &Shared,
    book: &mut BudgetBook,
    error: &HoldError,
    budgets: &[&BudgetEntry],
    ask: &Ask<'_>,
    patience: Option<&Patience>,
    now: Timestamp,
) -> Result<(), Denied> {
    let (HoldError::Refused(_) | HoldError::NotLoaded { .. }) = error else { return Ok(()) };
    let Ok(amounts) = ask.worst_case(ask.work) else { return Ok(()) };
    let lacking =
        |entry: &&&BudgetEntry| !book.is_loaded(entry, now) || book.lacking(entry, &amounts) != Amounts::default();
    let lacking: Vec<&BudgetEntry> = budgets.iter().filter(lacking).copied().collect();
    // What is not lent cannot come back.
    if lacking.is_empty() || !lacking.iter().all(|entry| shared.shares.may_come(book, entry.id)) {
        return Ok(());
    }
    let ids: Vec<BudgetId> = lacking.iter().map(|entry| entry.id).collect();
    match shared.shares.verdict(&ids, patience) {
        Verdict::Final => Ok(()),
        Verdict::Waits => Err(Denied::Lacks(Lack { budgets: ids, amounts })),
        Verdict::Slow => Err(Denied::Refused(Box::new(share_late(lacking[0])))),
        Verdict::Away => Err(Denied::Refused(Box::new(control_plane_silent()))),
    }
}

/// After how many tokens a stream is cut because a budget ends there, if the caller left its end open and enough fits.
fn cut_to_fit(asked: &Asked<'_>, error: &HoldError) -> Option<u32> {
    let HoldError::Refused(refused) = error else { return None };
    let fits = refused.fits_max_tokens.filter(|_| asked.is_open_ended())?;
    u32::try_from(fits.0 / asked.answers().max(1)).ok().filter(|tokens| *tokens >= CUT_MIN_TOKENS)
}

fn share_late(budget: &BudgetEntry) -> Refusal {
    let text = format!(
        "what is left of budget `{}` is at other gateways, which have not given it back in time; hint: send the request again in a moment",
        budget.name
    );
    Refusal::new(Code::Overloaded, text).retry_after(SEAT_WAIT)
}

fn control_plane_silent() -> Refusal {
    let text = "this gateway's share of a budget is used up or no longer in force, and its control plane does not answer, so nothing is admitted under budgets";
    Refusal::new(Code::ControlPlaneAway, text).retry_after(RECORDING_WAIT)
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

/// Looked up, not searched: a site has a budget for each of thousands of keys.
fn budgets_above(snapshot: &Snapshot, payer: Payer) -> Vec<&BudgetEntry> {
    payer.subjects().iter().filter_map(|subject| snapshot.budgets.get(subject)).flatten().collect()
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
