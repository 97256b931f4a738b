//! Why something is as it is: reason trees from recorded facts, each ending in what a person can do next.
//!
//! Nothing is guessed: every sentence restates a field, and “stuck” is a deadline that has passed.

use galerne_model::event::{Decision, Event};
use galerne_model::inference::{Endpoint, Pull, PullState, Replica, ReplicaState};
use galerne_model::ledger::{EnergyMethod, Outcome, UsageRecord};
use galerne_model::money::{Amounts, Budget, BudgetLimits, BudgetPeriod, Commodity};
use galerne_model::reason::Reason;
use galerne_model::units::{MicrogramsCo2e, Micros, Millijoules};
use jiff::{SignedDuration, Timestamp};

use crate::endpoint::state_word;

/// How long after its deadline a state counts as stuck: the loop that should have acted looks every few seconds.
const STUCK_AFTER: SignedDuration = SignedDuration::from_secs(10);
/// Spenders named under a budget.
const SPENDERS_NAMED: usize = 5;

/// A budget and what was spent under it.
#[derive(Debug, Clone, Copy)]
pub struct BudgetView<'a> {
    /// The budget.
    pub budget: &'a Budget,
    /// Settled in the running period.
    pub spent: Amounts,
    /// Held for requests that run.
    pub held: HeldNow,
    /// Lent to gateways in processes of their own, by whom and how much.
    pub lent: &'a [(String, Amounts)],
    /// Who spent it, by name, in any order.
    pub spenders: &'a [(String, Amounts)],
    /// The time.
    pub now: Timestamp,
}

/// What is held under a budget at this moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeldNow {
    /// Requests.
    pub requests: usize,
    /// Their worst cases together.
    pub amounts: Amounts,
    /// When the oldest was admitted.
    pub oldest_at: Option<Timestamp>,
}

/// Why an endpoint is in its state.
pub fn endpoint(endpoint: &Endpoint, replicas: &[Replica], now: Timestamp) -> Reason {
    let mut reason = endpoint.status.reason.clone();
    if endpoint.status.observed_generation < endpoint.generation {
        reason.because.push(Reason::blocks(
            "generation_not_seen",
            format!("its change to generation {} has not been acted upon yet", endpoint.generation),
        ));
    }
    reason.because.extend(replicas.iter().filter_map(|replica| stuck(replica, now)));
    reason
}

/// Whether a replica should long have left its state.
pub fn stuck(replica: &Replica, now: Timestamp) -> Option<Reason> {
    let status = &replica.status;
    let deadline = status.deadline_at.filter(|at| now.duration_since(*at) > STUCK_AFTER)?;
    let expected = match status.state {
        ReplicaState::Starting | ReplicaState::Unready | ReplicaState::Draining | ReplicaState::Backoff => true,
        ReplicaState::Ready | ReplicaState::Stopped => false,
    };
    let state = state_word(status.state);
    let text = format!(
        "replica {} is {state} since {} and should have left that state by {deadline}",
        replica.spec.index, status.since
    );
    let reason = Reason::blocks("replica_stuck", text);
    expected.then(|| reason.next("see whether the endpoint loop runs", "galerne events --action endpoint.state"))
}

/// Why a download is where it is.
pub fn pull(pull: &Pull) -> Reason {
    let name = &pull.name;
    let status = &pull.status;
    match status.state {
        PullState::Pending => Reason::blocks("pull_pending", "it waits for its turn; two downloads run at once"),
        PullState::Fetching => {
            let of = status.total.map_or_else(|| "an unknown number of".to_owned(), |total| total.0.to_string());
            Reason::blocks("pull_fetching", format!("{} of {of} bytes are here", status.done.0))
        }
        PullState::Importing => Reason::blocks("pull_importing", "all bytes are here; they are checked and prepared"),
        PullState::Done => Reason::holds("pull_done", "the model is here")
            .next("serve it", format!("galerne endpoint create {name} --model {name}")),
        PullState::Failed => {
            let because =
                status.reason.clone().unwrap_or_else(|| Reason::blocks("internal", "the reason was not recorded"));
            Reason::blocks("pull_failed", "it ended without a model").because(because).next(
                "try again; what is on disk is not fetched twice",
                format!("galerne model pull {}", pull.spec.source),
            )
        }
        PullState::Cancelled => Reason::blocks("pull_cancelled", "a person stopped it").next(
            "try again; what is on disk is not fetched twice",
            format!("galerne model pull {}", pull.spec.source),
        ),
    }
}

/// Why a request ended as it did and cost what it cost. `endpoint` is the endpoint's name.
pub fn request(record: &UsageRecord, endpoint: &str) -> Reason {
    let status = record.http_status;
    let head = match record.outcome {
        Outcome::Completed => {
            Reason::holds("request_completed", format!("`{endpoint}` answered it whole (HTTP {status})"))
        }
        Outcome::Cancelled => Reason::blocks(
            "request_cancelled",
            format!(
                "the client left before `{endpoint}` had finished (HTTP {status}); what was made until then counts"
            ),
        ),
        Outcome::Failed => Reason::blocks(
            "request_failed",
            format!("`{endpoint}` did not answer it whole (HTTP {status}); what was made until then counts"),
        )
        .next("see why its endpoint fails", format!("galerne why endpoint/{endpoint}")),
        Outcome::Interrupted => Reason::blocks(
            "request_interrupted",
            "the gateway ended while it was in flight; its hold was freed when the gateway came back",
        ),
    };
    let mut reason =
        head.because(time_of(record)).because(tokens_of(record)).because(money_of(record)).because(energy_of(record));
    if let Some(batch) = record.batch {
        reason = reason.next("see how its batch goes", format!("galerne batch show {}", batch.batch_id));
    }
    match record.replica_id {
        Some(_) => reason,
        None => reason.because(Reason::blocks("no_replica", "no replica took it")),
    }
}

/// Why a budget refuses or grants: its limits, what is left, who spent it.
pub fn budget(view: &BudgetView<'_>) -> Reason {
    let spec = &view.budget.spec;
    let limits = spec.limits();
    let mut all: Vec<(u8, Commodity, i64)> =
        limits.iter().map(|(commodity, limit)| (rank(view, commodity, limit), commodity, limit)).collect();
    // What refuses comes first.
    all.sort_by_key(|(rank, commodity, _)| (*rank, *commodity));
    let mut parts = all.into_iter().map(|(_, commodity, limit)| commodity_left(view, commodity, limit));
    let head = parts.next().unwrap_or_else(|| Reason::holds("budget_unlimited", "it limits nothing"));
    let mut reason = parts.fold(head, Reason::because);
    let (_, end) = crate::budget::period_at(spec.period, view.now);
    let period = match (spec.period, end) {
        (BudgetPeriod::Month, Some(end)) => Reason::holds("budget_period", format!("it starts again at {end}")),
        (BudgetPeriod::Month, None) | (BudgetPeriod::Total, Some(_) | None) => {
            Reason::holds("budget_period", "it counts from the beginning and never starts again")
        }
    };
    reason = reason.because(period);
    reason.because.extend(held_now(view));
    let lent = |(who, amounts): &(String, Amounts)| {
        Reason::holds("lent", format!("{who} may spend {} of it", limited_text(&limits, amounts)))
    };
    reason.because.extend(view.lent.iter().map(lent));
    reason.because.extend(spenders(view));
    reason
}

/// Who spent most of what is limited first.
fn spenders(view: &BudgetView<'_>) -> Vec<Reason> {
    let limits = view.budget.spec.limits();
    let Some((first, _)) = limits.iter().next() else { return Vec::new() };
    let mut spenders: Vec<&(String, Amounts)> = view.spenders.iter().filter(|(_, spent)| spent.of(first) > 0).collect();
    spenders.sort_by(|a, b| b.1.of(first).cmp(&a.1.of(first)).then_with(|| a.0.cmp(&b.0)));
    let named = spenders.into_iter().take(SPENDERS_NAMED);
    named
        .map(|(who, spent)| Reason::holds("spender", format!("{who} spent {}", limited_text(&limits, spent))))
        .collect()
}

/// Amounts of what is limited.
fn limited_text(limits: &BudgetLimits, amounts: &Amounts) -> String {
    let parts: Vec<String> = limits.iter().map(|(commodity, _)| commodity.text(amounts.of(commodity))).collect();
    parts.join(", ")
}

/// Used up is before held, held before left.
fn rank(view: &BudgetView<'_>, commodity: Commodity, limit: i64) -> u8 {
    let unspent = limit.saturating_sub(view.spent.of(commodity));
    let left = unspent.saturating_sub(view.held.amounts.of(commodity)).saturating_sub(lent(view, commodity));
    if unspent <= 0 { 0 } else { u8::from(left > 0) + 1 }
}

fn lent(view: &BudgetView<'_>, commodity: Commodity) -> i64 {
    view.lent.iter().fold(0, |sum, (_, amounts)| sum.saturating_add(amounts.of(commodity)))
}

fn commodity_left(view: &BudgetView<'_>, commodity: Commodity, limit: i64) -> Reason {
    let name = &view.budget.name;
    let (spent, held) = (view.spent.of(commodity), view.held.amounts.of(commodity));
    let unspent = limit.saturating_sub(spent).max(0);
    let lent = lent(view, commodity);
    let left = unspent.saturating_sub(held).saturating_sub(lent).max(0);
    let text = |amount| commodity.text(amount);
    let held = match view.held.requests {
        0 => String::new(),
        _ => format!(", {} held for requests that run", text(held)),
    };
    let lent = if lent > 0 { format!(", {} lent to gateways", text(lent)) } else { String::new() };
    let numbers = format!("{} of {} are spent{held}{lent}, {} are left", text(spent), text(limit), text(left));
    let raise = format!("galerne budget set {name} {}", commodity.option());
    if unspent == 0 {
        Reason::blocks("budget_spent", numbers).next("raise its limit", raise)
    } else if left == 0 {
        Reason::blocks("budget_held", format!("{numbers}; what requests do not use is free again when they end"))
            .next("wait for them, or raise its limit", raise)
    } else {
        Reason::holds("budget_left", format!("{numbers}; a request is admitted if its worst case fits into that"))
    }
}

/// Why a request was refused, by the event that tells of it. `code` is the error code it was refused with.
pub fn refused(event: &Event, code: Option<&str>) -> Reason {
    let text = code.and_then(|code| event.text.strip_prefix(code)?.strip_prefix(": ")).unwrap_or(&event.text);
    let head = Reason::blocks("request_refused", text);
    let head = match code {
        Some(code) => head.next(format!("what `{code}` means and what helps"), format!("galerne explain {code}")),
        None => head,
    };
    head.because(actor_of(event)).because(action_of(event))
}

/// What is known of a request without a record of its own, which refusals of its time were only counted: `sums` are the
/// events with the counts.
pub fn counted(sums: &[Event]) -> Reason {
    let text = "it has no record of its own: refusals came faster than they are recorded one by one, and if it was \
                refused it is in one of these counts";
    let part = |event: &Event| {
        let told = Reason::blocks("refusals_counted", format!("since {}, {}", event.at, event.text));
        told.because(actor_of(event)).next("the event with the count", format!("galerne why event/{}", event.id))
    };
    sums.iter().fold(Reason::blocks("request_counted", text), |reason, event| reason.because(part(event)))
}

fn held_now(view: &BudgetView<'_>) -> Option<Reason> {
    let held = &view.held;
    let since = held.oldest_at.map_or_else(String::new, |at| format!(", the oldest since {at}"));
    let requests = if held.requests == 1 {
        "1 request holds its".to_owned()
    } else {
        format!("{} requests hold their", held.requests)
    };
    let amounts = limited_text(&view.budget.spec.limits(), &held.amounts);
    let text = format!("{requests} worst case, {amounts} together{since}");
    (held.requests > 0).then(|| Reason::holds("held", text))
}

/// Why an action was denied, or that it was not.
pub fn event(event: &Event) -> Reason {
    let head = match event.decision {
        Decision::Allowed => Reason::holds("allowed", event.text.clone()),
        Decision::Denied => Reason::blocks("denied", event.text.clone())
            .next("see who you are and which roles you have", "galerne whoami")
            .next("ask an owner for a role", "galerne role grant PRINCIPAL ROLE --on WHERE"),
    };
    head.because(actor_of(event)).because(action_of(event))
}

fn actor_of(event: &Event) -> Reason {
    let who = match (event.actor.principal_id, event.actor.key_id) {
        (Some(principal), Some(key)) => format!("{principal} acted with {key}"),
        (Some(principal), None) => format!("{principal} acted"),
        (None, Some(key)) => format!("somebody acted with {key}"),
        (None, None) if event.actor.component.is_empty() => "the caller is not known".to_owned(),
        (None, None) => format!("Galerne itself acted ({})", event.actor.component),
    };
    let place = event.actor.address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
    Reason::holds("actor", format!("{who}{place}"))
}

fn action_of(event: &Event) -> Reason {
    let what = event.resource.as_ref().map(|id| format!(" on {id}")).unwrap_or_default();
    Reason::holds("action", format!("it was `{}`{what} at {}", event.action, event.at))
}

fn time_of(record: &UsageRecord) -> Reason {
    let took = record.ended_at.duration_since(record.started_at).as_millis();
    match record.first_token_micros {
        Some(micros) => {
            Reason::holds("time", format!("its first token came after {} ms, its last after {took} ms", micros / 1000))
        }
        None => Reason::holds("time", format!("it took {took} ms and brought no token")),
    }
}

fn tokens_of(record: &UsageRecord) -> Reason {
    let used = &record.quantities;
    let (prompt, cached, completion) = (used.prompt_tokens.0, used.cached_tokens.0, used.completion_tokens.0);
    Reason::holds("tokens", format!("{prompt} prompt tokens were computed, {cached} reused, {completion} generated"))
}

fn money_of(record: &UsageRecord) -> Reason {
    let by = match record.price_book_id {
        Some(id) => format!("by price book {id}"),
        None => "by the endpoint's own price, or without one".to_owned(),
    };
    let share = record.batch.map_or_else(String::new, |batch| {
        format!(", at {} % of it as a request of {}", batch.price_percent, batch.batch_id)
    });
    let charged = record.quantities.micros.min(record.held_micros);
    let borne = record.quantities.micros.saturating_sub(charged);
    let overrun = if borne > Micros::ZERO {
        format!("; {} € more were borne by the provider", borne.euros())
    } else {
        String::new()
    };
    Reason::holds(
        "money",
        format!("{} € were charged of {} € held, {by}{share}{overrun}", charged.euros(), record.held_micros.euros()),
    )
}

/// What a request was settled with before its replica's meter was read, and how that was shared. `change` is what the
/// record, as it is now, was corrected by.
pub fn corrected(record: &UsageRecord, change: (Millijoules, MicrogramsCo2e), how: &str) -> Reason {
    let used = &record.quantities;
    let (settled, carbon) = (used.millijoules - change.0, used.co2e_micrograms - change.1);
    Reason::holds(
        "energy_corrected",
        format!(
            "it was settled with {} J and {} g CO₂e, and corrected when the meter of its replica was read: {how}",
            settled.joules(),
            carbon.grams()
        ),
    )
}

fn energy_of(record: &UsageRecord) -> Reason {
    let used = &record.quantities;
    let method = match record.energy_method {
        EnergyMethod::Measured => "measured",
        EnergyMethod::Apportioned => "a share of what was measured, by work",
        EnergyMethod::Estimated => "estimated",
        EnergyMethod::Unknown => return Reason::holds("energy", "its energy is not known"),
    };
    Reason::holds(
        "energy",
        format!("{} J and {} g CO₂e, {method}", used.millijoules.joules(), used.co2e_micrograms.grams()),
    )
}

#[cfg(test)]
mod tests;
