//! Price books: what is taken is exact, and a hold covers every way in which its request can end.

use galerne_core::rating::{TokenCounts, WorkBound, charge, worst_case};
use galerne_model::money::{PriceBookSpec, TokenPrice};
use galerne_model::units::Tokens;
use serde_json::Value;

use crate::mutate::Chance;

/// Larger counts are cut before they are priced.
const COUNT_MAX: usize = 1 << 40;

pub(crate) fn prices(input: &[u8]) {
    let Ok(book) = serde_json::from_slice::<PriceBookSpec>(input) else { return };
    let written = serde_json::to_value(&book).expect("it is written");
    assert_eq!(
        serde_json::from_value::<PriceBookSpec>(written.clone()).ok(),
        Some(book.clone()),
        "read otherwise than written"
    );
    refuses_a_wrong_name(&written);
    let mut chance = Chance::new(input.len() as u64);
    for price in book.models.iter().map(|entry| entry.price).chain([book.default]) {
        rate(price, &mut chance);
    }
}

/// A misspelt name would price at nothing what somebody meant to charge for.
fn refuses_a_wrong_name(written: &Value) {
    for place in ["", "/default", "/models/0", "/models/0/price"] {
        let mut wrong = written.clone();
        let Some(Value::Object(object)) = wrong.pointer_mut(place) else { continue };
        object.insert("promt".to_owned(), Value::from(1));
        assert!(serde_json::from_value::<PriceBookSpec>(wrong).is_err(), "a wrong name at `{place}` is taken");
    }
}

fn rate(price: TokenPrice, chance: &mut Chance) {
    let parts = [price.prompt, price.cached, price.completion];
    let is_negative = parts.iter().any(|part| part.0 < 0);
    let mut count = || i64::try_from(chance.below(COUNT_MAX) >> chance.below(40)).unwrap_or(i64::MAX);
    let (prompt, cached, completion) = (count(), count(), count());
    let tokens = TokenCounts { prompt: Tokens(prompt), cached: Tokens(cached), completion: Tokens(completion) };
    let exact: i128 = [prompt, cached, completion]
        .into_iter()
        .zip(parts)
        .map(|(count, part)| i128::from(count) * i128::from(part.0))
        .sum();
    let charged = charge(&price, tokens);
    match charged {
        Ok(charge) => {
            assert!(!is_negative && charge.in_picos() == exact, "{charge:?} for {exact} picos");
            assert!((0..1_000_000).contains(&charge.picos.0) && charge.micros.0 >= 0, "{charge:?}");
        }
        Err(error) => assert!(is_negative || exact > i128::from(i64::MAX) * 1_000_000, "{error} for {exact} picos"),
    }
    let total = prompt + cached + completion;
    let work =
        WorkBound { prompt_max: Tokens(prompt + cached), completion_max: Tokens(completion), total_max: Tokens(total) };
    if let (Ok(hold), Ok(charge)) = (worst_case(&price, work), charged) {
        assert!(hold.0 >= charge.micros.0, "{hold:?} are held and {charge:?} is charged");
    }
}
