//! The line before an endpoint that is at its limit: who may start, who waits, who is sent away.
//!
//! An endpoint with a limit of concurrent requests has that many seats. Who finds none waits, up to a bound per tier; a
//! higher tier is called before a lower one and takes the place of one that waits where the line is full, never of one
//! that runs. Inside a tier it is first come, first served.
//! INVARIANT: nobody is seated while somebody of a higher tier, or of the same tier and earlier, waits.
//! INVARIANT: in the line are at most [`Bounds::places`] requests, of each tier at most its own bound.
//! Deliberately absent: time. How long requests take is told by whoever ends one; a wait that grows too long is given up
//! by whoever waits.

use std::collections::VecDeque;

use galerne_model::identity::ServiceTier;

/// A request in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(u64);

/// How long a line may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Requests that wait, all tiers together.
    pub places: usize,
    /// Requests that wait, by tier, lowest first.
    pub of_tier: [usize; ServiceTier::ALL.len()],
    /// The longest expected wait at which a request still joins the line, by tier, in microseconds.
    pub patience_micros: [i64; ServiceTier::ALL.len()],
}

/// What becomes of a request that arrives.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It may start: its seat ends by [`Line::leave`].
    Seated,
    /// It waits until it is called, or displaced, or gives up. `displaced` is sent away in its stead.
    Waits {
        /// Its place in the line.
        id: WaiterId,
        /// The one of a lower tier whose place it took: the last that came.
        displaced: Option<WaiterId>,
    },
    /// It is sent away.
    Shed {
        /// When the line is expected to have moved on far enough.
        retry_after_micros: i64,
    },
}

/// One endpoint's seats and who waits for them.
#[derive(Debug, Default)]
pub struct Line {
    taken: u32,
    /// By tier, lowest first; earliest in front.
    waiting: [VecDeque<WaiterId>; ServiceTier::ALL.len()],
    next_id: u64,
    /// Mean time that a seat is taken: each ended request moves it by an eighth.
    mean_micros: i64,
}

/// What a request is expected to take before any has ended.
const MEAN_AT_FIRST_MICROS: i64 = 1_000_000;
/// The shortest time after which a request that was sent away is asked to come again.
const RETRY_MIN_MICROS: i64 = 100_000;

impl Line {
    /// Somebody comes to an endpoint with so many seats.
    pub fn arrive(&mut self, seats: u32, tier: ServiceTier, bounds: &Bounds) -> Arrival {
        let ahead = self.ahead_of(tier);
        if self.taken < seats && ahead == 0 {
            self.taken += 1;
            return Arrival::Seated;
        }
        let index = tier.index();
        let wait = self.expected_wait(seats, ahead);
        let is_full = self.waiting[index].len() >= bounds.of_tier[index];
        if seats == 0 || is_full || wait > bounds.patience_micros[index] {
            return Arrival::Shed { retry_after_micros: wait.max(RETRY_MIN_MICROS) };
        }
        let displaced = if self.in_line() >= bounds.places { self.displace_below(tier) } else { None };
        if self.in_line() >= bounds.places {
            return Arrival::Shed { retry_after_micros: wait.max(RETRY_MIN_MICROS) };
        }
        let id = WaiterId(self.next_id);
        self.next_id += 1;
        self.waiting[index].push_back(id);
        Arrival::Waits { id, displaced }
    }

    /// A seat is given back after so long; whoever is next has it from now on.
    pub fn leave(&mut self, seats: u32, took_micros: i64) -> Option<WaiterId> {
        let took = took_micros.max(0);
        self.mean_micros = match self.mean_micros {
            0 => took.max(1),
            mean => (mean + (took - mean) / 8).max(1),
        };
        self.taken = self.taken.saturating_sub(1);
        self.call(seats)
    }

    /// The next one, if there is a seat: also asked when there are more seats than before.
    pub fn call(&mut self, seats: u32) -> Option<WaiterId> {
        if self.taken >= seats {
            return None;
        }
        let next = self.waiting.iter_mut().rev().find_map(VecDeque::pop_front)?;
        self.taken += 1;
        Some(next)
    }

    /// Somebody waits no longer. False when it has been called or displaced meanwhile: a seat it then has must be left.
    pub fn give_up(&mut self, id: WaiterId) -> bool {
        let before = self.in_line();
        for queue in &mut self.waiting {
            queue.retain(|other| *other != id);
        }
        self.in_line() < before
    }

    /// Requests that wait, all tiers together.
    pub fn in_line(&self) -> usize {
        self.waiting.iter().map(VecDeque::len).sum()
    }

    /// Whether nobody sits and nobody waits.
    pub fn is_idle(&self) -> bool {
        self.taken == 0 && self.in_line() == 0
    }

    /// Requests that would be called before one of this tier that comes now.
    fn ahead_of(&self, tier: ServiceTier) -> usize {
        self.waiting[tier.index()..].iter().map(VecDeque::len).sum()
    }

    fn expected_wait(&self, seats: u32, ahead: usize) -> i64 {
        let mean = if self.mean_micros == 0 { MEAN_AT_FIRST_MICROS } else { self.mean_micros };
        let turns = i64::try_from(ahead).unwrap_or(i64::MAX).saturating_add(1);
        turns.saturating_mul(mean) / i64::from(seats.max(1))
    }

    fn displace_below(&mut self, tier: ServiceTier) -> Option<WaiterId> {
        self.waiting[..tier.index()].iter_mut().find_map(VecDeque::pop_back)
    }
}

#[cfg(test)]
mod tests;
