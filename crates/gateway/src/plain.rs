//! A plain answer: read whole, counted, settled, then sent.
//!
//! An engine that does not report what it used is asked: for the tokens of the prompt, and of what it wrote. Where it cannot
//! say that either, each choice with content counts as one token, which it has at least.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use galerne_api::error::Code;
use galerne_api::surface::Dialect;
use galerne_core::routing;
use galerne_model::ledger::Outcome;
use serde_json::json;
use serde_json::value::RawValue;

use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::refusal::Refusal;
use crate::request::{Fields, List};
use crate::route::{SeatGuard, Step};
use crate::ticket::{Ending, Ticket};
use crate::upstream;

const ENERGY_JOULES: HeaderName = HeaderName::from_static("x-galerne-energy-joules");
const CO2E_GRAMS: HeaderName = HeaderName::from_static("x-galerne-co2e-grams");
const ENERGY_METHOD: HeaderName = HeaderName::from_static("x-galerne-energy-method");
const COST_EUR: HeaderName = HeaderName::from_static("x-galerne-cost-eur");

/// Passes on a reply that nothing was computed for: tokens of a text, or the text of tokens. It is settled for nothing.
pub(crate) fn tokens(
    shared: &Arc<Shared>,
    ticket: Ticket,
    body: Bytes,
    seat: SeatGuard,
) -> Result<Response<Body>, Refusal> {
    let is_object = serde_json::from_slice::<&RawValue>(&body).is_ok_and(|json| json.get().starts_with('{'));
    let (end, outcome, http_status) = if is_object {
        (routing::Ending::Answered, Outcome::Completed, 200)
    } else {
        (routing::Ending::Broken, Outcome::Failed, 502)
    };
    seat.release(end);
    ticket.settle(Ending { outcome, http_status, counted: Counted::default() });
    if !is_object {
        return Err(Refusal::new(Code::ReplicaFailed, "the replica answered with something that is not a JSON object"));
    }
    shared.metrics.answered(Counted::default());
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// Turns a replica's reply into ours and settles it.
pub(crate) async fn reply(
    shared: &Arc<Shared>,
    ticket: Ticket,
    body: &Bytes,
    seat: SeatGuard,
    step: &Step,
) -> Result<Response<Body>, Refusal> {
    let (response, ticket, ending) = prepare(shared, ticket, body, seat, step).await?;
    ticket.settle(ending);
    Ok(response)
}

/// The same, to be settled by the caller.
pub(crate) async fn prepare(
    shared: &Arc<Shared>,
    mut ticket: Ticket,
    body: &Bytes,
    mut seat: SeatGuard,
    step: &Step,
) -> Result<(Response<Body>, Ticket, Ending), Refusal> {
    let voice = &step.voice;
    let Some((fields, usage)) = parse(body) else {
        seat.release(routing::Ending::Broken);
        let refusal = Refusal::new(
            Code::ReplicaFailed,
            "the replica answered with something that is not a JSON object with `choices` or `data`",
        );
        let ending =
            Ending { outcome: Outcome::Failed, http_status: refusal.status().as_u16(), counted: Counted::default() };
        ticket.settle(ending);
        return Err(refusal);
    };
    let counted = match usage.and_then(meter::read_usage) {
        Some(counted) => counted,
        None => {
            // Asking for what was used takes time in which nothing is worked on.
            ticket.worked();
            Box::pin(count(shared, &ticket, &fields, step)).await
        }
    };
    seat.counted(counted);
    seat.release(routing::Ending::Answered);
    ticket.whole_content();
    let energy = ticket.energy(counted);
    let charge = ticket.charge(counted);
    // An exact surface has no other fields than the original's; headers tell there too.
    let told = (voice.dialect == Dialect::Union).then_some(energy);
    let shown = meter::shown_usage(usage, counted, ticket.operation(), told);
    let told = voice.whole(&fields, &shown, ticket.request_id());
    let ending = Ending { outcome: Outcome::Completed, http_status: 200, counted };
    shared.metrics.answered(counted);
    let mut response = Response::new(Body::from(told));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let (joules, grams) = meter::amounts(energy);
    text(headers, ENERGY_JOULES, &joules);
    text(headers, CO2E_GRAMS, &grams);
    text(headers, ENERGY_METHOD, meter::method_word(energy.method));
    text(headers, COST_EUR, &meter::cost_text(charge));
    Ok((response, ticket, ending))
}

/// The fields of an answer, and its usage where it has one.
fn parse(body: &Bytes) -> Option<(Fields<'_>, Option<&str>)> {
    let text = std::str::from_utf8(body).ok()?;
    let fields: Fields<'_> = serde_json::from_str(text).ok()?;
    let is_list = |name| fields.get(name).is_some_and(|list: &RawValue| list.get().starts_with('['));
    if !is_list("choices") && !is_list("data") {
        return None;
    }
    let usage = fields.get("usage").map(RawValue::get);
    Some((fields, usage))
}

/// Counts what an engine did not report: a lower bound.
async fn count(shared: &Shared, ticket: &Ticket, fields: &Fields<'_>, step: &Step) -> Counted {
    let Written { choices, text } = written(fields);
    let Some(replica) = ticket.replica() else { return Counted { completion: choices, ..Counted::default() } };
    let prompt = match &step.tokenize_body {
        Some(question) => upstream::count_prompt(shared, &replica, question).await.unwrap_or(0),
        None => 0,
    };
    let said = if choices > 0 {
        let question = json!({"model": step.endpoint.upstream_model, "prompt": text, "add_special_tokens": false});
        upstream::count_prompt(shared, &replica, &question.to_string().into_bytes().into()).await
    } else {
        None
    };
    Counted { prompt, completion: said.unwrap_or(0).max(choices), ..Counted::default() }
}

/// What an engine wrote.
struct Written {
    /// Choices with content.
    choices: i64,
    text: String,
}

fn written(fields: &Fields<'_>) -> Written {
    let choices = fields.get("choices").map_or("[]", RawValue::get);
    let List(choices) = serde_json::from_str(choices).unwrap_or(List(Vec::new()));
    let mut written = Written { choices: 0, text: String::new() };
    for choice in &choices {
        let before = written.text.len();
        written.add(choice, &["text"]);
        if let Some(message) = inside(choice, "message") {
            written.add(&message, &["reasoning_content", "reasoning", "content"]);
            let calls = message.get("tool_calls").and_then(|calls| serde_json::from_str(calls.get()).ok());
            let List(calls) = calls.unwrap_or(List(Vec::new()));
            for function in calls.iter().filter_map(|call| inside(call, "function")) {
                written.add(&function, &["name", "arguments"]);
            }
        }
        written.choices += i64::from(written.text.len() > before);
    }
    written
}

fn inside<'a>(fields: &Fields<'a>, name: &str) -> Option<Fields<'a>> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

impl Written {
    /// Adds what the model wrote there.
    fn add(&mut self, fields: &Fields<'_>, names: &[&str]) {
        for text in names.iter().filter_map(|name| fields.get(name)) {
            if let Ok(text) = serde_json::from_str::<String>(text.get()) {
                self.text.push_str(&text);
            }
        }
    }
}

fn text(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if value != "null" {
        headers.insert(name, HeaderValue::from_str(value).expect("digits and letters are a header value"));
    }
}
