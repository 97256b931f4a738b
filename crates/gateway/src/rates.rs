//! Limits on a request: whose apply, and what answers and refusals say of them.
//!
//! OpenAI's `x-ratelimit-*` tell of the one limit with the least left. The IETF's `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10) tell of each: `q` of its unit in `w` seconds, `r` of them left, full again in `t`.

use std::fmt::Write as _;
use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use galerne_api::error::Code;
use galerne_core::admission::{Limit, RateBook, RateRefused, Remaining, Subject};
use galerne_model::identity::{ModelLimits, RateLimits};
use galerne_model::snapshot::{EndpointEntry, KeyEntry, Snapshot};

use crate::refusal::{Headers, Refusal};

/// Wait proposed when a request is refused because of seats, which no clock frees.
pub(crate) const SEAT_WAIT: Duration = Duration::from_secs(1);
/// Seconds in the window of a bucket.
const WINDOW_SECONDS: u64 = 60;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// Whose limits apply to a request, those without any left out.
pub(crate) fn subjects(snapshot: &Snapshot, key: &KeyEntry, endpoint: &EndpointEntry) -> Vec<(Subject, RateLimits)> {
    let of_model = |limits: &[ModelLimits]| {
        limits.iter().find(|limits| limits.model == endpoint.name).map(|limits| limits.limits).unwrap_or_default()
    };
    let project = snapshot.projects.get(&key.project_id);
    let all = [
        (Subject::Key(key.id), key.limits),
        (Subject::KeyOnEndpoint(key.id, endpoint.id), of_model(&key.model_limits)),
        (Subject::Project(key.project_id), project.map(|project| project.limits).unwrap_or_default()),
        (
            Subject::ProjectOnEndpoint(key.project_id, endpoint.id),
            project.map(|project| of_model(&project.model_limits)).unwrap_or_default(),
        ),
        (Subject::Endpoint(endpoint.id), endpoint.limits),
    ];
    all.into_iter().filter(|(_, limits)| *limits != RateLimits::default()).collect()
}

/// Those of them that are about this endpoint: for a request that was admitted for another one by the same key.
pub(crate) fn subjects_on(snapshot: &Snapshot, key: &KeyEntry, endpoint: &EndpointEntry) -> Vec<(Subject, RateLimits)> {
    let mut all = subjects(snapshot, key, endpoint);
    all.retain(|(subject, _)| match subject {
        Subject::Key(_) | Subject::Project(_) => false,
        Subject::KeyOnEndpoint(..) | Subject::ProjectOnEndpoint(..) | Subject::Endpoint(_) => true,
    });
    all
}

pub(crate) fn refusal(refused: RateRefused, headers: Headers) -> Refusal {
    let mut refusal = Refusal::new(Code::RateLimited, refused.to_string());
    refusal.retry_after = match (refused.limit, refused.retry_after_micros) {
        (_, Some(micros)) => Some(Duration::from_micros(micros.unsigned_abs())),
        (Limit::Concurrency(most), None) if most > 0 => Some(SEAT_WAIT),
        (Limit::Concurrency(_) | Limit::Requests(_) | Limit::Tokens(_), None) => None,
    };
    refusal.headers = headers;
    refusal
}

/// What is left of the limits on a request.
pub(crate) fn headers(rates: &RateBook, subjects: &[(Subject, RateLimits)]) -> Headers {
    let mut headers = Headers::new();
    if subjects.is_empty() {
        return headers;
    }
    let left: Vec<(Subject, RateLimits, Remaining)> =
        subjects.iter().map(|(subject, limits)| (*subject, *limits, rates.remaining(*subject))).collect();
    let requests = left.iter().filter_map(|(_, limits, left)| Some((left.requests?, limits.requests_per_minute?)));
    let tokens = left.iter().filter_map(|(_, limits, left)| Some((left.tokens?, limits.tokens_per_minute?)));
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
    let (mut policy, mut state) = (String::new(), String::new());
    for (subject, limits, left) in &left {
        each_policy(*subject, limits, left, &mut policy, &mut state);
    }
    for (name, value) in [(POLICY, policy), (LEFT, state)] {
        let value = HeaderValue::from_str(&value).expect("words and digits are a header value");
        headers.push((name, value));
    }
    headers
}

/// Appends the limits of one subject as members of the two lists.
fn each_policy(subject: Subject, limits: &RateLimits, left: &Remaining, policy: &mut String, state: &mut String) {
    let whose = subject.word();
    let buckets = [
        ("requests", "requests", limits.requests_per_minute, left.requests),
        ("tokens", "tokens", limits.tokens_per_minute, left.tokens),
    ];
    for (name, unit, limit, left) in buckets {
        let (Some(limit), Some(left)) = (limit, left) else { continue };
        member(policy, format_args!("\"{whose}-{name}\";q={limit};w={WINDOW_SECONDS};qu=\"{unit}\""));
        let full_in = reset_ms(left, limit).div_ceil(1000);
        member(state, format_args!("\"{whose}-{name}\";r={left};t={full_in}"));
    }
    if let Some(limit) = limits.concurrent_requests {
        member(policy, format_args!("\"{whose}-concurrency\";q={limit};qu=\"concurrent-requests\""));
        member(state, format_args!("\"{whose}-concurrency\";r={}", limit.saturating_sub(left.in_flight)));
    }
}

fn member(list: &mut String, item: std::fmt::Arguments<'_>) {
    if !list.is_empty() {
        list.push_str(", ");
    }
    list.write_fmt(item).expect("a string takes all that is written");
}

/// A bucket of one minute's worth is full again after the missing part of a minute.
fn reset_ms(left: u32, limit: u32) -> u64 {
    u64::from(limit.saturating_sub(left)) * WINDOW_SECONDS * 1_000 / u64::from(limit.max(1))
}

fn push(headers: &mut Headers, names: [&'static str; 3], left: u32, limit: u32) {
    let values = [limit.to_string(), left.to_string(), format!("{}ms", reset_ms(left, limit))];
    for (name, value) in names.into_iter().zip(values) {
        let value = HeaderValue::from_str(&value).expect("digits are a header value");
        headers.push((HeaderName::from_static(name), value));
    }
}
