//! Price books: versions that are made and read, never changed.

use std::collections::BTreeSet;

use galerne_core::authorize::Noun;
use galerne_model::identity::Empty;
use galerne_model::ids::PriceBookId;
use galerne_model::money::{DIGEST_PREFIX, PriceBook, PriceBookSpec};
use galerne_store::Tx;
use jiff::Timestamp;
use uuid::Uuid;

use super::check_price;
use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed};

/// Longest name of a model on an external server.
const NAME_MAX_BYTES: usize = 200;
/// Models in one price book; keeps a version under the size of a body.
const ENTRIES_MAX: usize = 2_000;

impl Managed for PriceBook {
    const RIGHTS: Noun = Noun::PriceBook;
    const LEVEL: Level = Level::Site;

    fn mint(uuid: Uuid) -> PriceBookId {
        PriceBookId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> Empty {
        Empty {}
    }

    async fn check(
        _tx: &mut Tx,
        _caller: &Caller,
        draft: &Self,
        _before: Option<&PriceBookSpec>,
    ) -> Result<(), Refusal> {
        check(&draft.spec)
    }
}

fn check(spec: &PriceBookSpec) -> Result<(), Refusal> {
    check_price("spec.default", spec.default)?;
    if spec.models.len() > ENTRIES_MAX {
        return Err(Refusal::invalid("spec.models", format!("a price book has at most {ENTRIES_MAX} entries")));
    }
    let mut names = BTreeSet::new();
    for (index, entry) in spec.models.iter().enumerate() {
        check_price(&format!("spec.models[{index}].price"), entry.price)?;
        check_model(&format!("spec.models[{index}].model"), &entry.model)?;
        if !names.insert(&entry.model) {
            return Err(Refusal::invalid(&format!("spec.models[{index}].model"), "this model has a price already"));
        }
    }
    Ok(())
}

fn check_model(path: &str, model: &str) -> Result<(), Refusal> {
    if model.is_empty() || model.len() > NAME_MAX_BYTES {
        return Err(Refusal::invalid(path, format!("it takes 1 to {NAME_MAX_BYTES} bytes")));
    }
    let is_digest = |digits: &str| digits.len() == 64 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match model.strip_prefix(DIGEST_PREFIX) {
        Some(digits) if !is_digest(digits) => {
            Err(Refusal::invalid(path, "write a digest as `sha256:` and 64 lower-case hex digits"))
        }
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_written_whole_or_refused_and_any_name_is_a_name() {
        let sound = format!("sha256:{}", "0a".repeat(32));
        for model in [sound.as_str(), "mistral-small", "org/Model-7B:latest"] {
            assert!(check_model("p", model).is_ok(), "{model}");
        }
        for model in
            ["", "sha256:", "sha256:0A", &sound[..70], &sound.to_uppercase().replace("SHA", "sha"), &"x".repeat(201)]
        {
            assert!(check_model("p", model).is_err(), "{model}");
        }
    }
}
