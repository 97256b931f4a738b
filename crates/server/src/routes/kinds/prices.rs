//! Price books: versions that are made and read, never changed.

use std::collections::BTreeSet;

use galerne_core::authorize::Noun;
use galerne_model::identity::Empty;
use galerne_model::ids::PriceBookId;
use galerne_model::money::{PriceBook, PriceBookSpec};
use galerne_store::Tx;
use jiff::Timestamp;
use uuid::Uuid;

use super::check_price;
use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed};

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
        std::future::ready(check(&draft.spec)).await
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
        if !names.insert(&entry.model) {
            return Err(Refusal::invalid(&format!("spec.models[{index}].model"), "this model has a price already"));
        }
    }
    Ok(())
}
