//! What processes and people identify themselves by, and what a gateway hears from its control plane.

use galerne_api::gateways::Line;
use galerne_model::ids::{EndpointId, KeyId, PriceBookId, RequestId, TenantId};
use galerne_model::snapshot::Snapshot;
use galerne_model::token::{BadKey, KEY_BODY_CHARS, check_key, key_from_digits, last_four};
use std::fmt::Display;
use std::str::FromStr;
use uuid::Uuid;

/// API keys, gateways' among them, and ids: what is taken is written as it was read, and one wrong character is noticed.
pub(crate) fn names(input: &[u8]) {
    let mut digits = [0; KEY_BODY_CHARS];
    for (digit, byte) in digits.iter_mut().zip(input) {
        *digit = byte % 62;
    }
    let key = key_from_digits(&digits);
    assert_eq!(check_key(&key), Ok(()), "a key that was made is none");
    assert!(key.ends_with(last_four(&key)) && last_four(&key).len() == 4);
    let mut uuid = [0; 16];
    for (byte, given) in uuid.iter_mut().zip(input) {
        *byte = *given;
    }
    let id = TenantId::from_uuid(Uuid::from_bytes(uuid));
    assert_eq!(id.to_string().parse(), Ok(id));
    let Ok(text) = std::str::from_utf8(input) else { return };
    assert!(text.ends_with(last_four(text)) && last_four(text).len() <= 4);
    if check_key(text).is_ok() {
        for at in 0..text.len() {
            let mut wrong = text.as_bytes().to_vec();
            wrong[at] = if wrong[at] == b'z' { b'y' } else { b'z' };
            let wrong = String::from_utf8(wrong).expect("ASCII");
            assert!(matches!(check_key(&wrong), Err(BadKey::Shape | BadKey::Check)), "{wrong} is taken for {text}");
        }
    }
    same::<TenantId>(text);
    same::<KeyId>(text);
    same::<EndpointId>(text);
    same::<PriceBookId>(text);
    same::<RequestId>(text);
}

/// An id has one way to be written; what is none is named, and not repeated without end.
fn same<T: FromStr<Err: Display> + Display>(text: &str) {
    match text.parse::<T>() {
        Ok(id) => assert_eq!(id.to_string(), text, "an id may be written in two ways"),
        Err(bad) => assert!(bad.to_string().chars().count() < 200, "{bad}"),
    }
}

/// A line of the stream of snapshots: what is taken is written as it was read, and can be applied.
pub(crate) fn lines(input: &[u8]) {
    let Ok(line) = serde_json::from_slice::<Line>(input) else { return };
    let written = serde_json::to_vec(&line).expect("it is written");
    assert_eq!(serde_json::from_slice::<Line>(&written).ok(), Some(line.clone()), "it is read otherwise than written");
    if let Line::Changes { changes, .. } = line {
        let whole = changes.clone().apply_to(&Snapshot::default());
        assert_eq!(changes.apply_to(&whole), whole, "the same changes again change something");
    }
}
