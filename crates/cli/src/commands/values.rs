//! Values of options that several commands share, read once at the edge.

use std::str::FromStr;

use clap::Args;
use galerne_model::identity::{ModelLimits, RateLimits, ServiceTier};
use galerne_model::units::Micros;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Limits on a stream of requests.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct LimitArguments {
    /// Requests admitted per minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u32>,
    /// Tokens, prompt and completion, per minute
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<u32>,
    /// Requests in flight at once
    #[arg(long, value_name = "N")]
    concurrent_requests: Option<u32>,
}

/// Limits for one model, as typed: `NAME:requests=60,tokens=20000,concurrent=4`, or `NAME:none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelLimitArgument {
    model: String,
    limits: RateLimits,
}

impl FromStr for ModelLimitArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("`{text}` is no limit for a model; write one like MODEL:requests=60,tokens=20000 or MODEL:none");
        // Names of models have colons of their own.
        let (model, parts) = text.rsplit_once(':').filter(|(model, _)| !model.is_empty()).ok_or_else(bad)?;
        let mut limits = RateLimits::default();
        if parts != "none" {
            for part in parts.split(',') {
                let (name, number) = part.split_once('=').ok_or_else(bad)?;
                let number: u32 = number.parse().map_err(|_| bad())?;
                let limit = match name {
                    "requests" => &mut limits.requests_per_minute,
                    "tokens" => &mut limits.tokens_per_minute,
                    "concurrent" => &mut limits.concurrent_requests,
                    _ => return Err(bad()),
                };
                *limit = Some(number).filter(|number| *number > 0);
            }
        }
        Ok(Self { model: model.to_owned(), limits })
    }
}

impl ModelLimitArgument {
    /// The limits named here in place of those that the same models have; without any limit a model is left out.
    pub(crate) fn over(typed: Vec<Self>, mut now: Vec<ModelLimits>) -> Vec<ModelLimits> {
        for Self { model, limits } in typed {
            now.retain(|other| other.model != model);
            if limits != RateLimits::default() {
                now.push(ModelLimits { model, limits });
            }
        }
        now
    }
}

/// In words, model by model.
pub(crate) fn model_limits_text(limits: &[ModelLimits]) -> Option<String> {
    let texts: Vec<String> = limits.iter().map(|one| format!("{}: {}", one.model, limits_text(one.limits))).collect();
    (!texts.is_empty()).then(|| texts.join("; "))
}

/// A tier of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TierArgument {
    /// Served when nobody else wants the place, refused first
    Flex,
    /// The usual one
    Default,
    /// Served before the others, refused last
    Priority,
}

impl TierArgument {
    pub(crate) const fn tier(self) -> ServiceTier {
        match self {
            Self::Flex => ServiceTier::Flex,
            Self::Default => ServiceTier::Default,
            Self::Priority => ServiceTier::Priority,
        }
    }
}

impl LimitArguments {
    /// The limits named here put over `now`; 0 takes a limit away.
    pub(crate) fn over(self, now: RateLimits) -> RateLimits {
        let pick = |new: Option<u32>, old: Option<u32>| match new {
            Some(0) => None,
            Some(limit) => Some(limit),
            None => old,
        };
        RateLimits {
            requests_per_minute: pick(self.requests_per_minute, now.requests_per_minute),
            tokens_per_minute: pick(self.tokens_per_minute, now.tokens_per_minute),
            concurrent_requests: pick(self.concurrent_requests, now.concurrent_requests),
        }
    }
}

/// In words: `60 requests/min, 8 at once`.
pub(crate) fn limits_text(limits: RateLimits) -> String {
    let parts: Vec<String> = [
        limits.requests_per_minute.map(|n| format!("{n} requests/min")),
        limits.tokens_per_minute.map(|n| format!("{n} tokens/min")),
        limits.concurrent_requests.map(|n| format!("{n} at once")),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() { "none".to_owned() } else { parts.join(", ") }
}

/// A length of time as in `45s`, `30m`, `12h`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub(crate) SignedDuration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is not a length of time; write one like 45s, 30m, 12h or 7d");
        let unit = text.chars().last().ok_or_else(bad)?;
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(bad()),
        };
        let number: u32 = text[..text.len() - 1].parse().map_err(|_| bad())?;
        Ok(Self(SignedDuration::from_secs(i64::from(number) * seconds)))
    }
}

/// An instant: `2026-11-22`, `2026-11-22T21:00:00Z`, or a length of time before (or after) now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Instant {
    At(Timestamp),
    Away(Span),
}

impl Instant {
    /// The instant, seen as past from `now`.
    pub(crate) fn before(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(span) => now - span.0,
        }
    }

    /// The instant, seen as still to come from `now`.
    pub(crate) fn after(self, now: Timestamp) -> Timestamp {
        match self {
            Self::At(at) => at,
            Self::Away(span) => now + span.0,
        }
    }
}

impl FromStr for Instant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(Self::At(at));
        }
        if let Ok(date) = text.parse::<Date>() {
            let zoned = date.to_zoned(TimeZone::UTC).map_err(|error| error.to_string())?;
            return Ok(Self::At(zoned.timestamp()));
        }
        text.parse().map(Self::Away).map_err(|_| {
            format!("`{text}` is not a time; write 2026-11-22, 2026-11-22T21:00:00Z, or a length such as 12h or 7d")
        })
    }
}

/// An amount of euros such as `12.50`.
pub(crate) fn euros(text: &str) -> Result<Micros, String> {
    let micros = Micros::from_euros(text).map_err(|error| error.to_string())?;
    if micros < Micros::ZERO { Err(format!("`{text}` is below zero")) } else { Ok(micros) }
}

/// `kind/NAME`, split at the first slash.
pub(crate) fn split_reference(text: &str) -> Option<(&str, &str)> {
    text.split_once('/').filter(|(kind, name)| !kind.is_empty() && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_for_a_model_are_put_in_place_of_its_own_and_taken_away() {
        let read = |text: &str| text.parse::<ModelLimitArgument>();
        let now = ModelLimitArgument::over(vec![read("a:8b:requests=60,concurrent=4").expect("sound")], Vec::new());
        assert_eq!(model_limits_text(&now).as_deref(), Some("a:8b: 60 requests/min, 4 at once"));
        let now = ModelLimitArgument::over(vec![read("b:tokens=9").expect("sound")], now);
        assert_eq!(now.len(), 2);
        let now = ModelLimitArgument::over(vec![read("a:8b:none").expect("sound")], now);
        assert_eq!(model_limits_text(&now).as_deref(), Some("b: 9 tokens/min"));
        for wrong in ["", "a", ":requests=1", "a:requests", "a:seats=1", "a:requests=x"] {
            assert!(read(wrong).is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn spans_take_one_unit_and_nothing_else() {
        assert_eq!("12h".parse(), Ok(Span(SignedDuration::from_hours(12))));
        for wrong in ["", "h", "12", "-1d", "1.5h", "12 h", "4é", "99999999999d"] {
            assert!(wrong.parse::<Span>().is_err(), "{wrong} was taken");
        }
    }

    #[test]
    fn instants_are_dates_times_or_lengths() {
        let now: Timestamp = "2026-11-22T21:00:00Z".parse().expect("a time");
        let read = |text: &str| text.parse::<Instant>().expect("reads").before(now).to_string();
        assert_eq!(read("2026-11-01"), "2026-11-01T00:00:00Z");
        assert_eq!(read("2026-11-01T10:00:00+01:00"), "2026-11-01T09:00:00Z");
        assert_eq!(read("7d"), "2026-11-15T21:00:00Z");
        assert!("yesterday".parse::<Instant>().is_err());
    }

    #[test]
    fn a_limit_of_nought_takes_the_limit_away() {
        let now = RateLimits { requests_per_minute: Some(60), ..RateLimits::default() };
        let arguments =
            LimitArguments { requests_per_minute: Some(0), concurrent_requests: Some(8), ..Default::default() };
        let after = arguments.over(now);
        assert_eq!(limits_text(after), "8 at once");
        assert_eq!(limits_text(RateLimits::default()), "none");
    }
}
