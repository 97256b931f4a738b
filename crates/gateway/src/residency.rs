//! Where a request may be served and what may be kept of it, as its headers demand.
//!
//! `x-galerne-residency: FR, DE`: only by replicas that stand in one of these countries; where they stand is the endpoint's,
//! and one that nobody has stated is nowhere. `x-galerne-retention: none`: nothing of what is said is kept, which is so for
//! every request: usage records have numbers and ids only. What is demanded is confirmed in the answer's head.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use galerne_api::error::Code;
use galerne_model::snapshot::{EndpointEntry, KeyEntry, Snapshot};

use crate::admit::visible;
use crate::refusal::{Headers, Refusal};

const RESIDENCY: HeaderName = HeaderName::from_static("x-galerne-residency");
const RETENTION: HeaderName = HeaderName::from_static("x-galerne-retention");
/// Countries that a request may name; there are 249.
const COUNTRIES_MAX: usize = 64;
/// Endpoints that a refusal names.
const NAMED_MAX: usize = 5;

/// What a request demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Demands {
    /// Countries in which it may be served; anywhere when absent.
    countries: Option<Vec<String>>,
    no_retention: bool,
}

impl Demands {
    pub(crate) fn read(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut countries = Vec::new();
        for value in headers.get_all(RESIDENCY) {
            let text = value.to_str().map_err(|_| not_countries())?;
            for part in text.split(',') {
                let code = part.trim().to_ascii_uppercase();
                let is_country = code.len() == 2 && code.bytes().all(|b| b.is_ascii_uppercase());
                if !is_country || countries.len() == COUNTRIES_MAX {
                    return Err(not_countries());
                }
                countries.push(code);
            }
        }
        let mut no_retention = false;
        for value in headers.get_all(RETENTION) {
            if value.as_bytes() != b"none" {
                let text = "`x-galerne-retention` can only be `none`: nothing of what is said is kept in any case";
                return Err(Refusal::new(Code::InvalidQuery, text).param(RETENTION.as_str()));
            }
            no_retention = true;
        }
        Ok(Self { countries: (!countries.is_empty()).then_some(countries), no_retention })
    }

    /// Whether an endpoint stands where it may be served.
    pub(crate) fn allow(&self, endpoint: &EndpointEntry) -> bool {
        let Some(countries) = &self.countries else { return true };
        endpoint.residency.as_ref().is_some_and(|residency| countries.contains(residency))
    }

    /// The same for something that is kept: it then stands in `country`, when that is known, and is there until it goes.
    pub(crate) fn of_kept(headers: &HeaderMap, what: &str, country: Option<&str>) -> Result<Self, Refusal> {
        let demands = Self::read(headers)?;
        if demands.no_retention {
            let text = format!("{what} until it is deleted or its time is over; hint: send the requests one by one");
            return Err(Refusal::new(Code::InvalidQuery, text).param(RETENTION.as_str()));
        }
        let Some(countries) = &demands.countries else { return Ok(demands) };
        if country.is_some_and(|country| countries.iter().any(|named| named == country)) {
            return Ok(demands);
        }
        let is = match country {
            Some(country) => format!("{what} in {country}"),
            None => format!("{what} in a bucket, and nobody has stated where it stands"),
        };
        let text = format!("the request names {}, and {is}; hint: send the requests one by one", countries.join(", "));
        Err(Refusal::new(Code::ResidencyUnmet, text).param(RESIDENCY.as_str()))
    }

    /// Demands that were read before.
    pub(crate) fn of(countries: &[String]) -> Self {
        Self { countries: (!countries.is_empty()).then(|| countries.to_vec()), no_retention: false }
    }

    /// The countries that are named.
    pub(crate) fn countries(self) -> Vec<String> {
        self.countries.unwrap_or_default()
    }

    /// Refuses an endpoint that stands elsewhere, or nobody knows where; names those that do not.
    pub(crate) fn admit(&self, snapshot: &Snapshot, key: &KeyEntry, endpoint: &EndpointEntry) -> Result<(), Refusal> {
        let Some(countries) = &self.countries else { return Ok(()) };
        if self.allow(endpoint) {
            return Ok(());
        }
        let name = &endpoint.name;
        let is = match &endpoint.residency {
            Some(residency) => format!("`{name}` is served in {residency}"),
            None => format!("nobody has stated where the servers of `{name}` stand"),
        };
        let others: Vec<String> = visible(snapshot, key)
            .filter(|other| self.allow(other))
            .take(NAMED_MAX)
            .map(|other| format!("`{}`", other.name))
            .collect();
        let hint = if others.is_empty() {
            "no endpoint that this key may call is served there".to_owned()
        } else {
            format!("hint: call {}", others.join(" or "))
        };
        let text = format!("the request may only be served in {}, and {is}; {hint}", countries.join(", "));
        Err(Refusal::new(Code::ResidencyUnmet, text).param(RESIDENCY.as_str()))
    }

    /// What the answer of an endpoint confirms.
    pub(crate) fn confirmed(&self, endpoint: &EndpointEntry) -> Headers {
        let mut headers = Headers::new();
        if let (Some(_), Some(residency)) = (&self.countries, &endpoint.residency)
            && let Ok(value) = HeaderValue::from_str(residency)
        {
            headers.push((RESIDENCY, value));
        }
        if self.no_retention {
            headers.push((RETENTION, HeaderValue::from_static("none")));
        }
        headers
    }
}

fn not_countries() -> Refusal {
    let text = "`x-galerne-residency` is a list of countries, two letters each, such as `FR, DE`";
    Refusal::new(Code::InvalidQuery, text).param(RESIDENCY.as_str())
}
