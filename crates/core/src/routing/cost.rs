//! What a replica costs a request, in micros, and which of them is taken.
//!
//! Cost = time for the prompt tokens ahead and its own that are not cached + time for decoding the answer beside
//! the sequences there, whose answers get longer by it + a wall before a full cache; times the replica's pace, times a factor while it is new.
//! The smallest wins; among those within a window above it, the one that has most of the prompt: the work saved is in the
//! cost already, the window keeps small differences of load from tearing conversations off their replicas.

use galerne_model::ids::ReplicaId;
use jiff::{SignedDuration, Timestamp};

use super::breaker::BreakerState;

/// Micros in a second.
const SECOND: u64 = 1_000_000;
/// Weight of `k / (1 - k)` for the share `k` of the KV cache in use: 20 ms at a half, 2 s at 99 %.
const KV_MICROS: u64 = 20_000;
/// The cost of a replica that has just joined is multiplied by 4, less with time, and by 1 after this long: its caches are
/// cold and its first requests slow, so it is let in, not flooded.
const RAMP: SignedDuration = SignedDuration::from_secs(20);
/// Largest factor of a new replica, in thousandths.
const RAMP_MAX: u64 = 4_000;
/// Costs this close to the smallest are equal: an eighth of it, and at least this many micros.
const WINDOW_MICROS: u64 = 5_000;
const WINDOW_PART: u64 = 8;

/// What a replica has to do, as far as one gateway knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests of this gateway.
    pub in_flight: u32,
    /// Requests of others, by the replica's last report.
    pub others: u32,
    /// Prompt tokens that are still to be computed before a new one's.
    pub prompt_tokens: u64,
    /// Thousandths of the KV cache in use, by its last report.
    pub kv_thousandths: Option<u32>,
}

/// The parts of a cost, in micros before the factors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Prompt tokens of others ahead.
    pub queue: u64,
    /// Prompt tokens of the request that are not cached.
    pub prompt: u64,
    /// Decoding its answer beside the others there, and what that makes theirs longer.
    pub decode: u64,
    /// The wall before a full KV cache.
    pub kv: u64,
    /// Pace of the replica beside its like, in thousandths.
    pub pace: u64,
    /// Factor of a new replica, in thousandths; 1,000 when it is not new.
    pub ramp: u64,
    /// The sum of the parts times the factors.
    pub total: u64,
}

/// One replica, weighed for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weighed {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Whether it was among those compared; with many replicas a sample is.
    pub compared: bool,
    /// Its breaker.
    pub state: BreakerState,
    /// When its rest ends.
    pub until: Option<Timestamp>,
    /// Its load.
    pub load: Load,
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Tokens of the prompt that it is believed to have.
    pub cached_tokens: u64,
    /// Blocks of the prompt that it has by prediction, or by its own word.
    pub cached_blocks: u32,
    /// Its cost.
    pub cost: Cost,
    /// The attempt before this one failed there.
    pub(super) avoided: bool,
    pub(super) chosen_in_round: u64,
}

/// What costs are made of, besides the load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) prefill_per_second: u64,
    pub(super) decode_micros: u64,
    pub(super) uncached_tokens: u64,
    pub(super) pace: u64,
    pub(super) ramp: u64,
}

impl Cost {
    pub(super) fn of(load: &Load, terms: &Terms) -> Self {
        let micros = |tokens: u64, rate: u64| tokens.saturating_mul(SECOND) / rate.max(1);
        let k = u64::from(load.kv_thousandths.unwrap_or(0)).min(999);
        let mut cost = Self {
            queue: micros(load.prompt_tokens, terms.prefill_per_second),
            prompt: micros(terms.uncached_tokens, terms.prefill_per_second),
            decode: terms.decode_micros,
            kv: KV_MICROS * k / (1_000 - k),
            pace: terms.pace,
            ramp: terms.ramp,
            total: 0,
        };
        let parts = [cost.prompt, cost.decode, cost.kv].into_iter().fold(cost.queue, u64::saturating_add);
        cost.total = (parts.saturating_mul(cost.pace) / 1_000).saturating_mul(cost.ramp) / 1_000;
        cost
    }
}

/// The factor of a replica that joined at `joined_at`, in thousandths.
pub(super) fn ramp(joined_at: Timestamp, now: Timestamp) -> u64 {
    let age = u64::try_from(now.duration_since(joined_at).as_millis()).unwrap_or(0);
    let whole = u64::try_from(RAMP.as_millis()).unwrap_or(0);
    (whole * 1_000 / age.max(1)).clamp(1_000, RAMP_MAX)
}

/// The position of the one to take.
pub(super) fn pick(weighed: &[Weighed]) -> Option<usize> {
    let tier = |one: &Weighed| match one.state {
        BreakerState::Closed | BreakerState::HalfOpen => 0u8,
        BreakerState::Trying | BreakerState::Aside => 1,
        BreakerState::Open => 2,
    };
    // When all rest, the one whose rest ends first is tried, because a guess is better than a refusal.
    let class = |one: &Weighed| (one.avoided, tier(one), one.until.filter(|_| tier(one) == 2));
    let best = weighed.iter().filter(|one| one.compared).map(class).min()?;
    let able = || weighed.iter().enumerate().filter(|(_, one)| one.compared && class(one) == best);
    let least = able().map(|(_, one)| one.cost.total).min()?;
    let near = least.saturating_add((least / WINDOW_PART).max(WINDOW_MICROS));
    let rank =
        |one: &Weighed| (std::cmp::Reverse(one.cached_blocks), one.cost.total, one.chosen_in_round, one.replica_id);
    able().filter(|(_, one)| one.cost.total <= near).min_by_key(|(_, one)| rank(one)).map(|(at, _)| at)
}
