//! A plain answer: read whole, counted, settled, then sent.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use galerne_api::error::Code;
use galerne_api::surface::Dialect;
use galerne_core::routing;
use galerne_model::ledger::Outcome;
use serde_json::value::RawValue;

use crate::config::Shared;
use crate::meter::{self, Counted};
use crate::refusal::Refusal;
use crate::request::Fields;
use crate::route::SeatGuard;
use crate::ticket::{Ending, Ticket};
use crate::voice::Voice;

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
pub(crate) fn reply(
    shared: &Arc<Shared>,
    ticket: Ticket,
    body: &Bytes,
    seat: SeatGuard,
    voice: &Voice,
) -> Result<Response<Body>, Refusal> {
    let (response, ticket, ending) = prepare(shared, ticket, body, seat, voice)?;
    ticket.settle(ending);
    Ok(response)
}

/// The same, to be settled by the caller.
pub(crate) fn prepare(
    shared: &Arc<Shared>,
    mut ticket: Ticket,
    body: &Bytes,
    mut seat: SeatGuard,
    voice: &Voice,
) -> Result<(Response<Body>, Ticket, Ending), Refusal> {
    let Some((fields, usage)) = parse(body) else {
        seat.release(routing::Ending::Broken);
        let refusal = Refusal::new(
            Code::ReplicaFailed,
            "the replica answered with something that is not a JSON object with `usage`",
        );
        let ending =
            Ending { outcome: Outcome::Failed, http_status: refusal.status().as_u16(), counted: Counted::default() };
        ticket.settle(ending);
        return Err(refusal);
    };
    let counted = meter::read_usage(usage).unwrap_or_default();
    seat.counted(counted);
    seat.release(routing::Ending::Answered);
    ticket.whole_content();
    let energy = ticket.energy(counted);
    let charge = ticket.charge(counted);
    // An exact surface has no other fields than the original's; headers tell there too.
    let told = (voice.dialect == Dialect::Union).then_some(energy);
    let told = voice.whole(&fields, &meter::shown_usage(usage, told), ticket.request_id());
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

fn parse(body: &Bytes) -> Option<(Fields<'_>, &str)> {
    let text = std::str::from_utf8(body).ok()?;
    let fields: Fields<'_> = serde_json::from_str(text).ok()?;
    let usage = fields.get("usage")?.get();
    meter::read_usage(usage)?;
    Some((fields, usage))
}

fn text(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if value != "null" {
        headers.insert(name, HeaderValue::from_str(value).expect("digits and letters are a header value"));
    }
}
