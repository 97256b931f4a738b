//! One number for sums by day, key and endpoint, so that ten million records need not be grouped again.
//!
//! A fingerprint is Σ weight(group) × mix(quantities) modulo a prime, over usage records on one side and over the kept
//! sums on the other. It is linear, so equal sums have equal fingerprints; multipliers are drawn anew for each check and
//! the weight is not linear in the numbers of a group, so two groups whose sums were swapped, or one that took from
//! others, pass with a chance below one in 100,000. Only where fingerprints differ are the records grouped, exactly.

use galerne_model::ledger::Quantities;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::error::StoreError;
use crate::ledger::{too_large, values};

/// Modulus of fingerprints: 2³¹ − 1, so that products of two residues fit into 64 bits, in SQL too.
const MODULUS: i64 = 2_147_483_647;
/// Modulus of the number a group is known by: a prime below 2²⁴.
const GROUP_MODULUS: i64 = 16_777_213;
/// Divided by a group's number to get its weight: what is left of a division follows no pattern of its divisors.
const DIVIDEND: i64 = 1 << 62;
/// Quantities are reduced first, whatever a record holds (picos are below a micro): eight products then fit into 64 bits.
const QUANTITY_MULTIPLIER_MAX: u64 = 1 << 28;
const GROUP_MULTIPLIER_MAX: u64 = 1 << 24;

/// The fingerprint of one usage record in SQL, with [`Fingerprint::multipliers`] bound from `$1` on.
macro_rules! of_record {
    () => {
        "(($1 + prompt_tokens % 2147483647 * $2 + cached_tokens % 2147483647 * $3 \
         + completion_tokens % 2147483647 * $4 + (micros - overrun_micros) % 2147483647 * $5 \
         + (picos - overrun_picos) * $6 + millijoules % 2147483647 * $7 \
         + co2e_micrograms % 2147483647 * $8) % 2147483647) \
         * (4611686018427387904 / ((started_at / 86400000000 * $9 + key_no * $10 + endpoint_no * $11 \
         + principal_no * $12 + tenant_no * $13 + $14) % 16777213 + 16777213) % 2147483647) % 2147483647"
    };
}

pub(super) use of_record;

/// What a sum is kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    pub(super) day: i64,
    pub(super) key_no: i64,
    pub(super) endpoint_no: i64,
    pub(super) principal_no: i64,
    pub(super) tenant_no: i64,
}

/// The multipliers of one check.
#[derive(Debug)]
pub(super) struct Fingerprint {
    quantities: [i64; 8],
    groups: [i64; 6],
}

impl Fingerprint {
    pub(super) fn draw() -> Self {
        Self::seeded(Uuid::now_v7())
    }

    fn seeded(seed: Uuid) -> Self {
        let mut drawn = 0_u8;
        let mut next = |below: u64| {
            drawn += 1;
            let digest = Sha256::new().chain_update(seed.as_bytes()).chain_update([drawn]).finalize();
            let bytes: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
            i64::try_from(u64::from_le_bytes(bytes) % (below - 1) + 1).expect("far below 2⁶³")
        };
        Self {
            quantities: std::array::from_fn(|_| next(QUANTITY_MULTIPLIER_MAX)),
            groups: std::array::from_fn(|_| next(GROUP_MULTIPLIER_MAX)),
        }
    }

    /// The values to bind to the SQL text, in order.
    pub(super) fn multipliers(&self) -> impl Iterator<Item = i64> {
        self.quantities.into_iter().chain(self.groups)
    }

    /// The fingerprint of a sum.
    pub(super) fn of(&self, group: &Group, requests: i64, sum: &Quantities) -> Result<i64, StoreError> {
        let [day, key, endpoint, principal, tenant, offset] = self.groups.map(i128::from);
        let number = i128::from(group.day) * day
            + i128::from(group.key_no) * key
            + i128::from(group.endpoint_no) * endpoint
            + i128::from(group.principal_no) * principal
            + i128::from(group.tenant_no) * tenant
            + offset;
        let number = number.rem_euclid(i128::from(GROUP_MODULUS)) + i128::from(GROUP_MODULUS);
        let weight = i128::from(DIVIDEND) / number % i128::from(MODULUS);
        let [first, rest @ ..] = self.quantities;
        let mixed = values(sum).iter().zip(rest).try_fold(
            i128::from(requests) * i128::from(first),
            |mixed, (value, multiplier)| {
                mixed.checked_add(i128::from(*value) * i128::from(multiplier)).ok_or_else(too_large)
            },
        )?;
        reduced(mixed.rem_euclid(i128::from(MODULUS)) * weight)
    }

    /// Two fingerprints together.
    pub(super) const fn sum(a: i64, b: i64) -> i64 {
        (a + b % MODULUS).rem_euclid(MODULUS)
    }
}

fn reduced(value: i128) -> Result<i64, StoreError> {
    i64::try_from(value.rem_euclid(i128::from(MODULUS))).map_err(|_| too_large())
}

#[cfg(test)]
mod tests {
    use galerne_model::units::{Micros, Tokens};

    use super::*;

    fn group(day: i64, key_no: i64, endpoint_no: i64) -> Group {
        Group { day, key_no, endpoint_no, principal_no: 17, tenant_no: 16 }
    }

    fn sum(micros: i64) -> Quantities {
        Quantities { micros: Micros(micros), prompt_tokens: Tokens(3 * micros), ..Quantities::default() }
    }

    fn total(print: &Fingerprint, rows: &[(Group, i64)]) -> i64 {
        rows.iter().fold(0, |total, (group, micros)| {
            Fingerprint::sum(total, print.of(group, 1, &sum(*micros)).expect("small"))
        })
    }

    #[test]
    fn patterns_that_keep_every_sum_by_day_key_and_endpoint_are_seen() {
        let base = 1_000;
        // Swap; rectangle (each day's and each key's sum stays); second and third differences; a cube.
        let patterns: [Vec<(Group, i64)>; 5] = [
            vec![(group(1, 20, 5), 7), (group(1, 21, 5), -7)],
            vec![(group(1, 20, 5), 7), (group(1, 21, 5), -7), (group(2, 20, 5), -7), (group(2, 21, 5), 7)],
            vec![(group(1, 20, 5), 7), (group(1, 21, 5), -14), (group(1, 22, 5), 7)],
            vec![(group(1, 20, 5), 7), (group(1, 21, 5), -21), (group(1, 22, 5), 21), (group(1, 23, 5), -7)],
            (0..8)
                .map(|n: i64| {
                    (
                        group(n & 1, 20 + (n >> 1 & 1), 5 + (n >> 2)),
                        if n.count_ones().is_multiple_of(2) { 7 } else { -7 },
                    )
                })
                .collect(),
        ];
        for pattern in patterns {
            let honest: Vec<(Group, i64)> = pattern.iter().map(|(group, _)| (*group, base)).collect();
            let moved: Vec<(Group, i64)> = pattern.iter().map(|(group, by)| (*group, base + by)).collect();
            assert_eq!(moved.iter().map(|row| row.1).sum::<i64>(), honest.iter().map(|row| row.1).sum::<i64>());
            // Always the same draws: among enough of others one would pass, as it may.
            for seed in 0..200 {
                let print = Fingerprint::seeded(Uuid::from_u128(seed));
                assert_ne!(total(&print, &honest), total(&print, &moved), "{pattern:?}");
            }
        }
    }
}
