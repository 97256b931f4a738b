//! Rating: tokens × price = money, exactly.
//!
//! A price is micros per million tokens, so one token at price 1 costs one pico (10⁻¹² €) and every
//! product is a whole number of picos. Rounding happens once, in [`Charge::from_picos`]: micros are
//! rounded down and the remainder is booked beside them as picos.
//! Products are computed in `i128`; what does not fit `i64` micros is refused, never wrapped.

use galerne_model::money::TokenPrice;
use galerne_model::units::{Micros, PICOS_PER_MICRO, Picos, Tokens};

/// Why tokens cannot be priced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RatingError {
    /// A count or a price is below zero.
    #[error("a token count or a price is negative")]
    Negative,
    /// The amount leaves the range of the ledger.
    #[error("the amount is larger than the ledger can hold")]
    TooLarge,
}

/// An amount of money with what rounding down left over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Charge {
    /// Whole micros.
    pub micros: Micros,
    /// The rest, 0 to 999 999.
    pub picos: Picos,
}

/// Tokens of one request, by what they cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TokenCounts {
    /// Prompt tokens computed.
    pub prompt: Tokens,
    /// Prompt tokens reused from the cache.
    pub cached: Tokens,
    /// Generated tokens, all choices together.
    pub completion: Tokens,
}

/// The most a request can consume, as known before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkBound {
    /// Upper bound of the prompt in tokens (its bytes when nothing better is known).
    pub prompt_max: Tokens,
    /// Upper bound of the completion: `max_tokens` × choices; the context when the caller gave none; 0 for embeddings.
    pub completion_max: Tokens,
    /// Prompt and completion together, all choices counted: context × choices. `i64::MAX` when there is no such bound.
    pub total_max: Tokens,
}

impl Charge {
    /// Nothing.
    pub const ZERO: Self = Self { micros: Micros(0), picos: Picos(0) };

    /// Rounds a whole number of picos down to micros and keeps the rest.
    pub fn from_picos(picos: i128) -> Result<Self, RatingError> {
        let unit = i128::from(PICOS_PER_MICRO);
        let micros = i64::try_from(picos.div_euclid(unit)).map_err(|_| RatingError::TooLarge)?;
        let rest = i64::try_from(picos.rem_euclid(unit)).map_err(|_| RatingError::TooLarge)?;
        Ok(Self { micros: Micros(micros), picos: Picos(rest) })
    }

    /// The same amount in picos.
    pub fn in_picos(self) -> i128 {
        i128::from(self.micros.0) * i128::from(PICOS_PER_MICRO) + i128::from(self.picos.0)
    }
}

/// What `tokens` cost at `price`.
pub fn charge(price: &TokenPrice, tokens: TokenCounts) -> Result<Charge, RatingError> {
    Charge::from_picos(cost_in_picos(price, tokens)?)
}

/// The hold a request needs: the dearest way it can end within `work`, rounded up to whole micros.
pub fn worst_case(price: &TokenPrice, work: WorkBound) -> Result<Micros, RatingError> {
    if price.prompt.0 < 0 || price.cached.0 < 0 || price.completion.0 < 0 {
        return Err(RatingError::Negative);
    }
    let picos = dearest_end(price.prompt.max(price.cached).0, price.completion.0, work);
    let unit = i128::from(PICOS_PER_MICRO);
    i64::try_from((picos + unit - 1) / unit).map(Micros).map_err(|_| RatingError::TooLarge)
}

/// The most that `work` can come to, at so much for a prompt token and so much for a generated one.
///
/// The prompt bound is often far above the prompt, and what the prompt does not take of the context the
/// completion may, so the dearest end is searched at the corners of the bound.
pub(crate) fn dearest_end(prompt_rate: i64, completion_rate: i64, work: WorkBound) -> i128 {
    let total = work.total_max.0.max(0);
    let prompt_max = work.prompt_max.0.clamp(0, total);
    let completion_max = work.completion_max.0.max(0);
    // Corners: the longest prompt, and the longest prompt that leaves room for the whole completion.
    let corners = [prompt_max, prompt_max.min(total.saturating_sub(completion_max).max(0))];
    let cost = |prompt: i64| {
        let completion = completion_max.min(total - prompt);
        i128::from(prompt) * i128::from(prompt_rate) + i128::from(completion) * i128::from(completion_rate)
    };
    corners.into_iter().map(cost).max().unwrap_or(0)
}

/// The largest completion whose worst case is at most `available`, or nothing when not even the prompt fits.
pub fn largest_completion(price: &TokenPrice, work: WorkBound, available: Micros) -> Option<Tokens> {
    largest_that(work, |work| worst_case(price, work).is_ok_and(|amount| amount <= available))
}

/// The largest completion within `work` that `fits`, which must not grow with the completion.
pub(crate) fn largest_that(work: WorkBound, fits: impl Fn(WorkBound) -> bool) -> Option<Tokens> {
    let fits = |completion: i64| fits(WorkBound { completion_max: Tokens(completion), ..work });
    if !fits(0) {
        return None;
    }
    let (mut fitting, mut end) = (0, work.completion_max.0.max(0));
    while fitting < end {
        let middle = fitting + (end - fitting + 1) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            end = middle - 1;
        }
    }
    Some(Tokens(fitting))
}

/// A share of a price in per cent, rounded down: what a token costs that waits for room.
pub fn percent_of(price: &TokenPrice, percent: u8) -> Result<TokenPrice, RatingError> {
    let share = |micros: Micros| {
        let share = i128::from(micros.0) * i128::from(percent) / 100;
        i64::try_from(share).map(Micros).map_err(|_| RatingError::TooLarge)
    };
    if price.prompt.0 < 0 || price.cached.0 < 0 || price.completion.0 < 0 {
        return Err(RatingError::Negative);
    }
    Ok(TokenPrice { prompt: share(price.prompt)?, cached: share(price.cached)?, completion: share(price.completion)? })
}

fn cost_in_picos(price: &TokenPrice, tokens: TokenCounts) -> Result<i128, RatingError> {
    let parts = [(tokens.prompt, price.prompt), (tokens.cached, price.cached), (tokens.completion, price.completion)];
    let mut picos: i128 = 0;
    for (count, price) in parts {
        if count.0 < 0 || price.0 < 0 {
            return Err(RatingError::Negative);
        }
        // Three products of two i64 stay far below the range of i128.
        picos += i128::from(count.0) * i128::from(price.0);
    }
    Ok(picos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn price(prompt: i64, cached: i64, completion: i64) -> TokenPrice {
        TokenPrice { prompt: Micros(prompt), cached: Micros(cached), completion: Micros(completion) }
    }

    fn counts(prompt: i64, cached: i64, completion: i64) -> TokenCounts {
        TokenCounts { prompt: Tokens(prompt), cached: Tokens(cached), completion: Tokens(completion) }
    }

    #[test]
    fn micros_are_rounded_down_and_the_rest_is_kept_in_picos() {
        // 31 prompt tokens at 0.15 € and 9 completion tokens at 0.60 € per million: 4.65 + 5.4 = 10.05 micros.
        let charge = charge(&price(150_000, 15_000, 600_000), counts(31, 0, 9)).expect("small numbers");
        assert_eq!(charge, Charge { micros: Micros(10), picos: Picos(50_000) });
    }

    #[test]
    fn a_share_of_a_price_is_rounded_down_and_never_wraps() {
        assert_eq!(percent_of(&price(150_001, 3, i64::MAX), 50), Ok(price(75_000, 1, i64::MAX / 2)));
        assert_eq!(percent_of(&price(7, 7, 7), 100), Ok(price(7, 7, 7)));
        assert_eq!(percent_of(&price(i64::MAX, 0, 0), 200), Err(RatingError::TooLarge));
        assert_eq!(percent_of(&price(-1, 0, 0), 50), Err(RatingError::Negative));
    }

    #[test]
    fn amounts_beyond_the_ledger_and_negative_counts_are_refused() {
        let dear = price(i64::MAX, 0, 0);
        assert_eq!(charge(&dear, counts(i64::MAX, 0, 0)), Err(RatingError::TooLarge));
        assert_eq!(charge(&dear, counts(-1, 0, 0)), Err(RatingError::Negative));
        assert_eq!(charge(&price(-1, 0, 0), counts(1, 0, 0)), Err(RatingError::Negative));
    }

    #[test]
    fn the_largest_fitting_completion_is_exact_at_its_border() {
        let price = price(0, 0, 1_000_000);
        let work = WorkBound { prompt_max: Tokens(5), completion_max: Tokens(512), total_max: Tokens(2048) };
        assert_eq!(worst_case(&price, work), Ok(Micros(512)));
        assert_eq!(largest_completion(&price, work, Micros(100)), Some(Tokens(100)));
        assert_eq!(largest_completion(&price, work, Micros(0)), Some(Tokens(0)));
        let with_prompt = TokenPrice { prompt: Micros(1_000_000), ..price };
        assert_eq!(largest_completion(&with_prompt, work, Micros(4)), None);
    }

    proptest! {
        #[test]
        fn a_charge_loses_no_pico(prompt in 0i64..1 << 40, cached in 0i64..1 << 40, completion in 0i64..1 << 40, p in 0i64..1 << 40, c in 0i64..1 << 40, o in 0i64..1 << 40) {
            let exact = i128::from(prompt) * i128::from(p) + i128::from(cached) * i128::from(c) + i128::from(completion) * i128::from(o);
            match charge(&price(p, c, o), counts(prompt, cached, completion)) {
                Ok(charge) => {
                    prop_assert_eq!(charge.in_picos(), exact);
                    prop_assert!((0..PICOS_PER_MICRO).contains(&charge.picos.0));
                }
                Err(e) => {
                    prop_assert_eq!(e, RatingError::TooLarge);
                    prop_assert!(exact / i128::from(PICOS_PER_MICRO) > i128::from(i64::MAX));
                }
            }
        }

        #[test]
        fn no_end_of_a_request_costs_more_than_its_hold(
            p in 0i64..2_000_000, c in 0i64..2_000_000, o in 0i64..2_000_000,
            prompt_max in 0i64..5000, completion_max in 0i64..5000, total_max in 0i64..6000,
            parts in proptest::array::uniform3(0i64..=100),
        ) {
            // Any end inside the bound: a share of the prompt, a share of that cached, a share of what room is left.
            let read = prompt_max.min(total_max) * parts[0] / 100;
            let cached = read * parts[1] / 100;
            let prompt = read - cached;
            let completion = completion_max.min(total_max - read) * parts[2] / 100;
            let work = WorkBound { prompt_max: Tokens(prompt_max), completion_max: Tokens(completion_max), total_max: Tokens(total_max) };
            let price = price(p, c, o);
            let held = worst_case(&price, work).expect("small numbers");
            let charged = charge(&price, counts(prompt, cached, completion)).expect("small numbers");
            prop_assert!(charged.in_picos() <= i128::from(held.0) * i128::from(PICOS_PER_MICRO));
        }

        #[test]
        fn one_token_more_than_fits_does_not_fit(p in 0i64..2_000_000, o in 0i64..2_000_000, prompt_max in 0i64..500, completion_max in 0i64..500, total_max in 0i64..800, available in 0i64..1000) {
            let work = WorkBound { prompt_max: Tokens(prompt_max), completion_max: Tokens(completion_max), total_max: Tokens(total_max) };
            let price = price(p, p, o);
            let cost = |completion: i64| worst_case(&price, WorkBound { completion_max: Tokens(completion), ..work }).expect("small numbers").0;
            match largest_completion(&price, work, Micros(available)) {
                None => prop_assert!(cost(0) > available),
                Some(Tokens(fitting)) => {
                    prop_assert!(cost(fitting) <= available);
                    prop_assert!(fitting == completion_max || cost(fitting + 1) > available);
                }
            }
        }
    }
}
