//! Admission: rate and concurrency limits of keys, projects and endpoints, and of keys and projects for one endpoint.
//!
//! Each limit is a token bucket that holds one minute's worth, in integers: a bucket's level counts parts of
//! 1/60 000 000, so that it refills by exactly `rate` parts per microsecond and no time is lost to rounding.
//! All limits above a request are checked before any is touched.
//! INVARIANT: requests in flight = permits not ended. A [`Permit`] cannot be cloned; `finish` and `cancel` consume it.
//! Tokens are estimated at admission and corrected at the end; a bucket may then be in debt, which later
//! requests wait off. A clock that jumps back refills nothing until it moves on from there.

use std::collections::BTreeMap;

use galerne_model::identity::RateLimits;
use galerne_model::ids::{EndpointId, KeyId, ProjectId};
use jiff::Timestamp;

/// Parts of one unit: microseconds in a minute.
const PARTS: i64 = 60_000_000;

/// Whose limits these are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// One key.
    Key(KeyId),
    /// All keys of a project.
    Project(ProjectId),
    /// All callers of an endpoint.
    Endpoint(EndpointId),
    /// One key on one endpoint.
    KeyOnEndpoint(KeyId, EndpointId),
    /// All keys of a project on one endpoint.
    ProjectOnEndpoint(ProjectId, EndpointId),
}

impl Subject {
    /// Its name in policies that are told to callers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Key(_) => "key",
            Self::Project(_) => "project",
            Self::Endpoint(_) => "model",
            Self::KeyOnEndpoint(..) => "key-on-model",
            Self::ProjectOnEndpoint(..) => "project-on-model",
        }
    }
}

/// Which limit refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Requests per minute.
    Requests(u32),
    /// Tokens per minute.
    Tokens(u32),
    /// Requests in flight at once.
    Concurrency(u32),
}

/// Why a request was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}", rate_text(*self))]
pub struct RateRefused {
    /// Whose limit.
    pub subject: Subject,
    /// Which limit.
    pub limit: Limit,
    /// Tokens the request was estimated at.
    pub asked_tokens: u32,
    /// When it would be admitted if nobody else came; absent when waiting for time does not help.
    pub retry_after_micros: Option<i64>,
}

/// The right to be in flight. Ends by [`RateBook::finish`] or [`RateBook::cancel`].
#[derive(Debug)]
#[must_use = "a permit that is dropped counts as a request in flight for ever: finish it"]
pub struct Permit {
    subjects: Vec<Subject>,
    estimated_tokens: u32,
}

/// What is left of the limits of a subject.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Remaining {
    /// Requests that may come now.
    pub requests: Option<u32>,
    /// Tokens that may be used now.
    pub tokens: Option<u32>,
    /// Requests in flight now.
    pub in_flight: u32,
}

/// Rates and concurrency of everything that has limits.
#[derive(Debug, Default)]
pub struct RateBook {
    limiters: BTreeMap<Subject, Limiter>,
}

#[derive(Debug)]
struct Limiter {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    in_flight: u32,
}

/// A token bucket: full at one minute's worth.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_minute: u32,
    level: i64,
    refilled_at: Timestamp,
}

impl RateBook {
    /// Nobody in flight, all buckets full.
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits a request under all the limits, or under none of them.
    pub fn admit(
        &mut self,
        limits: &[(Subject, RateLimits)],
        tokens: u32,
        now: Timestamp,
    ) -> Result<Permit, RateRefused> {
        for (subject, limits) in limits {
            let limiter = self.limiters.entry(*subject).or_insert_with(Limiter::idle);
            limiter.keep_up(limits, now);
            limiter.check(limits, tokens).map_err(|(limit, retry_after_micros)| RateRefused {
                subject: *subject,
                limit,
                asked_tokens: tokens,
                retry_after_micros,
            })?;
        }
        for (subject, _) in limits {
            if let Some(limiter) = self.limiters.get_mut(subject) {
                limiter.take(tokens);
            }
        }
        Ok(Permit { subjects: limits.iter().map(|(subject, _)| *subject).collect(), estimated_tokens: tokens })
    }

    /// Ends a request and corrects the estimate of its tokens.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the permit is what forbids ending it twice")]
    pub fn finish(&mut self, permit: Permit, used_tokens: u32) {
        let correction = i64::from(permit.estimated_tokens) - i64::from(used_tokens);
        for subject in &permit.subjects {
            if let Some(limiter) = self.limiters.get_mut(subject) {
                limiter.in_flight = limiter.in_flight.saturating_sub(1);
                if let Some(bucket) = &mut limiter.tokens {
                    bucket.give(correction);
                }
            }
        }
    }

    /// Ends a request that was refused after all: request, tokens and seat are as if it had never come.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the permit is what forbids ending it twice")]
    pub fn cancel(&mut self, permit: Permit) {
        for subject in &permit.subjects {
            if let Some(limiter) = self.limiters.get_mut(subject) {
                limiter.in_flight = limiter.in_flight.saturating_sub(1);
                if let Some(bucket) = &mut limiter.requests {
                    bucket.give(1);
                }
                if let Some(bucket) = &mut limiter.tokens {
                    bucket.give(i64::from(permit.estimated_tokens));
                }
            }
        }
    }

    /// What a subject may still do now.
    pub fn remaining(&self, subject: Subject) -> Remaining {
        let whole = |bucket: Option<Bucket>| bucket.map(|b| u32::try_from(b.level / PARTS).unwrap_or(0));
        self.limiters.get(&subject).map_or_else(Remaining::default, |l| Remaining {
            requests: whole(l.requests),
            tokens: whole(l.tokens),
            in_flight: l.in_flight,
        })
    }

    /// Requests of a subject in flight.
    pub fn in_flight(&self, subject: Subject) -> u32 {
        self.limiters.get(&subject).map_or(0, |limiter| limiter.in_flight)
    }

    /// Forgets subjects that have nobody in flight and full buckets, so that deleted keys do not pile up.
    pub fn forget_idle(&mut self, now: Timestamp) {
        self.limiters.retain(|_, limiter| {
            let full = |bucket: &mut Option<Bucket>| {
                bucket.as_mut().is_none_or(|b| {
                    b.refill(now);
                    b.level >= b.capacity()
                })
            };
            limiter.in_flight > 0 || !full(&mut limiter.requests) || !full(&mut limiter.tokens)
        });
    }
}

impl Limiter {
    fn idle() -> Self {
        Self { requests: None, tokens: None, in_flight: 0 }
    }

    /// Takes over the limits in force and refills up to `now`.
    fn keep_up(&mut self, limits: &RateLimits, now: Timestamp) {
        for (bucket, rate) in
            [(&mut self.requests, limits.requests_per_minute), (&mut self.tokens, limits.tokens_per_minute)]
        {
            match (bucket.as_mut(), rate) {
                (Some(bucket), Some(rate)) => {
                    bucket.refill(now);
                    bucket.per_minute = rate;
                    bucket.level = bucket.level.min(bucket.capacity());
                }
                (None, Some(rate)) => *bucket = Some(Bucket::full(rate, now)),
                (Some(_) | None, None) => *bucket = None,
            }
        }
    }

    fn check(&self, limits: &RateLimits, tokens: u32) -> Result<(), (Limit, Option<i64>)> {
        if let Some(most) = limits.concurrent_requests
            && self.in_flight >= most
        {
            // Seats come free when requests end, which no clock tells; a limit of 0 admits nobody.
            return Err((Limit::Concurrency(most), None));
        }
        if let Some(bucket) = &self.requests {
            bucket.check(1).map_err(|wait| (Limit::Requests(bucket.per_minute), wait))?;
        }
        if let Some(bucket) = &self.tokens {
            bucket.check(tokens).map_err(|wait| (Limit::Tokens(bucket.per_minute), wait))?;
        }
        Ok(())
    }

    fn take(&mut self, tokens: u32) {
        self.in_flight += 1;
        if let Some(bucket) = &mut self.requests {
            bucket.give(-1);
        }
        if let Some(bucket) = &mut self.tokens {
            bucket.give(-i64::from(tokens));
        }
    }
}

impl Bucket {
    fn full(per_minute: u32, now: Timestamp) -> Self {
        Self { per_minute, level: i64::from(per_minute) * PARTS, refilled_at: now }
    }

    fn capacity(&self) -> i64 {
        i64::from(self.per_minute) * PARTS
    }

    fn refill(&mut self, now: Timestamp) {
        let elapsed = now.as_microsecond().saturating_sub(self.refilled_at.as_microsecond()).max(0);
        let gained = elapsed.saturating_mul(i64::from(self.per_minute));
        self.level = self.level.saturating_add(gained).min(self.capacity());
        self.refilled_at = now;
    }

    fn check(&self, units: u32) -> Result<(), Option<i64>> {
        let cost = i64::from(units) * PARTS;
        if cost > self.capacity() {
            return Err(None);
        }
        let missing = cost.saturating_sub(self.level);
        if missing <= 0 {
            return Ok(());
        }
        let rate = i64::from(self.per_minute);
        Err(Some(missing.saturating_add(rate - 1) / rate.max(1)))
    }

    /// Adds units, or takes them when negative; never above full.
    fn give(&mut self, units: i64) {
        self.level = self.level.saturating_add(units.saturating_mul(PARTS)).min(self.capacity());
    }
}

fn rate_text(refused: RateRefused) -> String {
    let whose = match refused.subject {
        Subject::Key(_) => "this key",
        Subject::Project(_) => "this project",
        Subject::Endpoint(_) => "this endpoint",
        Subject::KeyOnEndpoint(..) => "this key on this model",
        Subject::ProjectOnEndpoint(..) => "this project on this model",
    };
    match refused.limit {
        Limit::Requests(most) => format!("{whose} may make {most} requests per minute and has made them"),
        Limit::Tokens(most) if refused.retry_after_micros.is_none() => {
            format!(
                "the request may need {} tokens and {whose} may use {most} per minute, so it can never be admitted",
                refused.asked_tokens
            )
        }
        Limit::Tokens(most) => {
            format!(
                "the request may need {} tokens and {whose} has fewer left of its {most} per minute",
                refused.asked_tokens
            )
        }
        Limit::Concurrency(most) => format!("{whose} may have {most} requests in flight and has them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    const NOBODY: RateLimits =
        RateLimits { requests_per_minute: None, tokens_per_minute: None, concurrent_requests: None };

    fn key(n: u128) -> Subject {
        Subject::Key(KeyId::from_uuid(Uuid::from_u128(n)))
    }

    fn millis(n: i64) -> Timestamp {
        Timestamp::from_millisecond(1_780_000_000_000 + n).expect("in range")
    }

    fn requests(n: u32) -> RateLimits {
        RateLimits { requests_per_minute: Some(n), ..NOBODY }
    }

    #[test]
    fn a_minutes_worth_is_admitted_at_once_and_then_one_per_interval() {
        let mut book = RateBook::new();
        let mut admit = |at| book.admit(&[(key(1), requests(60))], 0, millis(at));
        assert_eq!((0..60).filter(|_| admit(0).is_ok()).count(), 60);
        let refused = admit(0).expect_err("the sixty-first does not");
        assert_eq!((refused.limit, refused.retry_after_micros), (Limit::Requests(60), Some(1_000_000)));
        assert_eq!(refused.to_string(), "this key may make 60 requests per minute and has made them");
        assert!(admit(999).is_err());
        assert!(admit(1000).is_ok(), "one per second");
        assert!(admit(1000).is_err());
    }

    #[test]
    fn a_refusal_by_one_subject_costs_the_others_nothing() {
        let mut book = RateBook::new();
        let both = [(key(1), requests(10)), (key(2), requests(1))];
        let first = book.admit(&both, 0, millis(0)).expect("both have room");
        assert_eq!(book.admit(&both, 0, millis(0)).expect_err("the second is empty").subject, key(2));
        assert_eq!(book.remaining(key(1)).requests, Some(9));
        assert_eq!((book.in_flight(key(1)), book.in_flight(key(2))), (1, 1));
        book.finish(first, 0);
        assert_eq!((book.in_flight(key(1)), book.in_flight(key(2))), (0, 0));
    }

    #[test]
    fn a_limit_for_one_model_leaves_the_others_alone() {
        let endpoint = |n| EndpointId::from_uuid(Uuid::from_u128(n));
        let Subject::Key(key_id) = key(1) else { panic!("a key") };
        let on = |n| [(key(1), requests(10)), (Subject::KeyOnEndpoint(key_id, endpoint(n)), requests(1))];
        let mut book = RateBook::new();
        drop(book.admit(&on(1), 0, millis(0)).expect("the first on the first model"));
        let refused = book.admit(&on(1), 0, millis(0)).expect_err("the second is one too many");
        assert_eq!(refused.to_string(), "this key on this model may make 1 requests per minute and has made them");
        drop(book.admit(&on(2), 0, millis(0)).expect("another model"));
        assert_eq!(book.remaining(key(1)).requests, Some(8), "the refusal cost the key nothing");
    }

    #[test]
    fn tokens_are_corrected_at_the_end_and_debts_are_waited_off() {
        let limits = RateLimits { tokens_per_minute: Some(600), ..NOBODY };
        let mut book = RateBook::new();
        let permit = book.admit(&[(key(1), limits)], 500, millis(0)).expect("500 of 600");
        book.finish(permit, 100);
        assert_eq!(book.remaining(key(1)).tokens, Some(500));
        let permit = book.admit(&[(key(1), limits)], 500, millis(0)).expect("500 of 500");
        book.finish(permit, 600);
        let refused = book.admit(&[(key(1), limits)], 10, millis(0)).expect_err("100 in debt");
        assert_eq!(refused.retry_after_micros, Some(11_000_000), "110 tokens at ten per second");
        let never = book.admit(&[(key(1), limits)], 601, millis(0)).expect_err("more than a minute's worth");
        assert_eq!(never.retry_after_micros, None);
    }

    #[test]
    fn a_cancelled_request_gives_back_its_request_its_tokens_and_its_seat() {
        let limits =
            RateLimits { requests_per_minute: Some(1), tokens_per_minute: Some(600), concurrent_requests: Some(1) };
        let mut book = RateBook::new();
        let permit = book.admit(&[(key(1), limits)], 500, millis(0)).expect("all of it is left");
        book.cancel(permit);
        assert_eq!(book.remaining(key(1)), Remaining { requests: Some(1), tokens: Some(600), in_flight: 0 });
        assert_eq!(book.in_flight(key(1)), 0);
    }

    #[test]
    fn seats_are_given_back_and_limits_change_in_place() {
        let seats = |n| RateLimits { concurrent_requests: Some(n), ..NOBODY };
        let mut book = RateBook::new();
        let first = book.admit(&[(key(1), seats(1))], 0, millis(0)).expect("one seat");
        assert_eq!(book.admit(&[(key(1), seats(1))], 0, millis(0)).expect_err("taken").limit, Limit::Concurrency(1));
        let second = book.admit(&[(key(1), seats(2))], 0, millis(0)).expect("a second seat was added");
        book.finish(first, 0);
        book.finish(second, 0);
        assert!(book.admit(&[(key(1), seats(0))], 0, millis(0)).is_err(), "zero admits nobody");
        book.forget_idle(millis(0));
        assert!(book.limiters.is_empty());
        drop(book.admit(&[(key(1), requests(100))], 0, millis(0)).expect("a full bucket"));
        drop(book.admit(&[(key(1), requests(5))], 0, millis(0)).expect("a smaller one"));
        assert_eq!(book.remaining(key(1)).requests, Some(4), "a lowered rate holds at once");
    }

    #[test]
    fn clock_jumps_give_at_most_one_full_bucket() {
        let mut book = RateBook::new();
        let mut admitted =
            |at: i64| (0..100).filter(|_| book.admit(&[(key(1), requests(10))], 0, millis(at)).is_ok()).count();
        assert_eq!(admitted(0), 10);
        assert_eq!(admitted(-3_600_000), 0, "an hour back refills nothing");
        assert_eq!(admitted(-3_600_000 + 6_000), 1, "and time goes on from there");
        assert_eq!(admitted(86_400_000_000), 10, "years ahead fill it once");
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_its_rate_and_one_minutes_worth(rate in 1u32..200, steps in proptest::collection::vec(0i64..5_000, 1..200)) {
            let mut book = RateBook::new();
            let mut now = 0;
            let mut admitted = 0i64;
            for step in steps {
                now += step;
                if book.admit(&[(key(1), requests(rate))], 0, millis(now)).is_ok() {
                    admitted += 1;
                }
                prop_assert!(admitted * 60_000 <= i64::from(rate) * (60_000 + now));
            }
        }
    }
}
