//! Who calls: the key in `Authorization: Bearer` or `x-api-key`, looked up in the snapshot by its digest.

use std::sync::Arc;

use axum::http::{HeaderMap, header};
use galerne_api::error::Code;
use galerne_model::identity::KeyScope;
use galerne_model::snapshot::{KeyEntry, Snapshot};
use galerne_model::token;
use jiff::Timestamp;

use crate::digest::Digester;
use crate::refusal::Refusal;

/// Finds the key that was sent.
pub(crate) fn find_key(
    headers: &HeaderMap,
    digester: &Digester,
    snapshot: &Snapshot,
) -> Result<Arc<KeyEntry>, Refusal> {
    let key = presented(headers)?;
    token::check_key(key).map_err(|bad| Refusal::new(Code::InvalidKey, bad.to_string()))?;
    snapshot.keys.get(&digester.digest(key)).cloned().ok_or_else(|| {
        let last_four = token::last_four(key);
        Refusal::new(
            Code::InvalidKey,
            format!("the API key ending in `{last_four}` is not known here, or it was revoked"),
        )
    })
}

/// Checks that a key may be used for inference now.
pub(crate) fn check_key(key: &KeyEntry, now: Timestamp) -> Result<(), Refusal> {
    if let Some(expired_at) = key.expires_at.filter(|at| *at <= now) {
        let text = format!("the API key expired at {expired_at}; hint: galerne key rotate {}", key.id);
        return Err(Refusal::new(Code::KeyExpired, text));
    }
    if !key.scopes.contains(&KeyScope::Inference) {
        let text = "the API key does not have the scope `inference`; hint: galerne key create --scope inference";
        return Err(Refusal::new(Code::ScopeMissing, text));
    }
    if !key.may_infer {
        let text = "the key's principal has no role that allows inference in the key's project";
        return Err(Refusal::new(Code::Forbidden, text));
    }
    Ok(())
}

fn presented(headers: &HeaderMap) -> Result<&str, Refusal> {
    let malformed = || {
        Refusal::new(
            Code::InvalidKey,
            "the `authorization` header cannot be read: send `authorization: Bearer galerne_…`",
        )
    };
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().map_err(|_| malformed())?;
        let (scheme, key) = text.split_once(' ').ok_or_else(malformed)?;
        return if scheme.eq_ignore_ascii_case("bearer") { Ok(key.trim()) } else { Err(malformed()) };
    }
    match headers.get("x-api-key") {
        Some(value) => value.to_str().map(str::trim).map_err(|_| malformed()),
        None => Err(Refusal::new(Code::Unauthenticated, "no API key was sent: send `authorization: Bearer galerne_…`")),
    }
}
