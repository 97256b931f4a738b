//! Routing: which replica answers, whether a failed attempt is repeated, which replicas rest for a while.
//!
//! The replica with the fewest requests in flight wins; among equals the one that was chosen longest ago, then
//! the lowest id. A replica that fails `FAILURES_TO_EJECT` times in a row is left alone, for twice as long each
//! time; when all rest, the one whose rest ends first is tried, because a guess is better than a refusal.
//! INVARIANT: in flight = seats not released. A [`Seat`] cannot be cloned and `release` consumes it.

use std::collections::BTreeMap;

use galerne_model::ids::ReplicaId;
use jiff::{SignedDuration, Timestamp};

/// Failures in a row before a replica rests: one may be chance, three are not.
const FAILURES_TO_EJECT: u32 = 3;
/// First rest; a restarted worker is back in about this time.
const EJECTION_MIN: SignedDuration = SignedDuration::from_secs(1);
/// Longest rest; the endpoint loop's own probes act sooner than this on a dead replica.
const EJECTION_MAX: SignedDuration = SignedDuration::from_secs(30);
/// Attempts per request: the first and one more.
const ATTEMPTS_MAX: u32 = 2;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The replica answered, be it with an error the caller made.
    Answered,
    /// The replica could not be reached.
    ConnectFailed,
    /// The connection broke, or what came was not an answer.
    Broken,
    /// No byte came in time.
    TimedOut,
    /// A status that blames the replica: 500 and above but 503.
    ServerError(u16),
    /// 503: the replica's queue is full or it is still loading.
    Busy,
    /// The client left.
    Cancelled,
}

/// Whether the client has already seen a part of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Nothing was sent to the client.
    BeforeFirstByte,
    /// Something was sent; a second answer cannot be told from the first.
    Started,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try another replica (the same one when there is no other).
    Retry,
    /// Hand on what happened.
    Finish,
}

/// A place in the queue of a replica. Ends by [`ReplicaBook::release`].
#[derive(Debug)]
#[must_use = "a seat that is dropped counts as a request in flight for ever: release it"]
pub struct Seat {
    replica: ReplicaId,
}

/// What one gateway knows of the replicas it sends to.
#[derive(Debug, Default)]
pub struct ReplicaBook {
    replicas: BTreeMap<ReplicaId, Health>,
    round: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Health {
    in_flight: u32,
    chosen_in_round: u64,
    failures_in_row: u32,
    ejections: u32,
    rests_until: Option<Timestamp>,
}

/// The ending a status from a replica stands for.
pub fn ending_of_status(status: u16) -> Ending {
    match status {
        503 => Ending::Busy,
        500..=599 => Ending::ServerError(status),
        _ => Ending::Answered,
    }
}

/// Whether to try again after `attempts` attempts (1 = the first has just ended).
pub fn after_attempt(attempts: u32, progress: Progress, ending: Ending) -> Next {
    let may_help = match ending {
        Ending::ConnectFailed | Ending::Broken | Ending::ServerError(_) | Ending::Busy => true,
        // A request that used up its time has none left; what the caller did wrong stays wrong.
        Ending::TimedOut | Ending::Answered | Ending::Cancelled => false,
    };
    match progress {
        Progress::BeforeFirstByte if may_help && attempts < ATTEMPTS_MAX => Next::Retry,
        Progress::BeforeFirstByte | Progress::Started => Next::Finish,
    }
}

impl Seat {
    /// The replica that was chosen.
    pub fn replica(&self) -> ReplicaId {
        self.replica
    }
}

impl ReplicaBook {
    /// Knows of no replica.
    pub fn new() -> Self {
        Self::default()
    }

    /// Chooses among `ready`; `avoid` is the replica whose attempt has just failed.
    pub fn choose(&mut self, ready: &[ReplicaId], avoid: Option<ReplicaId>, now: Timestamp) -> Option<Seat> {
        let rank = |id: &ReplicaId| {
            let health = self.replicas.get(id).copied().unwrap_or_default();
            let rests_until = health.rests_until.filter(|until| *until > now);
            (Some(*id) == avoid, rests_until, health.in_flight, health.chosen_in_round, *id)
        };
        let replica = ready.iter().copied().min_by_key(rank)?;
        self.round += 1;
        let health = self.replicas.entry(replica).or_default();
        health.in_flight += 1;
        health.chosen_in_round = self.round;
        Some(Seat { replica })
    }

    /// Gives a seat back and learns from how the attempt ended.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the seat is what forbids releasing it twice")]
    pub fn release(&mut self, seat: Seat, ending: Ending, now: Timestamp) {
        let Some(health) = self.replicas.get_mut(&seat.replica) else { return };
        health.in_flight = health.in_flight.saturating_sub(1);
        match ending {
            Ending::Answered => {
                health.failures_in_row = 0;
                health.ejections = 0;
                health.rests_until = None;
            }
            Ending::ConnectFailed | Ending::Broken | Ending::TimedOut | Ending::ServerError(_) => health.fail(now),
            // Busy is not broken, and a client that leaves says nothing about the replica.
            Ending::Busy | Ending::Cancelled => {}
        }
    }

    /// Requests in flight on a replica.
    pub fn in_flight(&self, replica: ReplicaId) -> u32 {
        self.replicas.get(&replica).map_or(0, |health| health.in_flight)
    }

    /// Whether a replica rests now.
    pub fn is_resting(&self, replica: ReplicaId, now: Timestamp) -> bool {
        self.replicas.get(&replica).is_some_and(|health| health.rests_until.is_some_and(|until| until > now))
    }

    /// Forgets replicas that are gone and have nothing in flight.
    pub fn keep_only(&mut self, known: &std::collections::BTreeSet<ReplicaId>) {
        self.replicas.retain(|id, health| known.contains(id) || health.in_flight > 0);
    }
}

impl Health {
    fn fail(&mut self, now: Timestamp) {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        if self.failures_in_row >= FAILURES_TO_EJECT {
            let doubled = 1i32.checked_shl(self.ejections.min(16)).unwrap_or(i32::MAX);
            let rest = EJECTION_MIN.checked_mul(doubled).unwrap_or(EJECTION_MAX).min(EJECTION_MAX);
            self.ejections = self.ejections.saturating_add(1);
            self.rests_until = Some(now.saturating_add(rest).unwrap_or(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn replica(n: u128) -> ReplicaId {
        ReplicaId::from_uuid(Uuid::from_u128(n))
    }

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + n).expect("in range")
    }

    fn fail(book: &mut ReplicaBook, at: i64) {
        let seat = book.choose(&[replica(1)], None, second(at)).expect("one is ready");
        book.release(seat, Ending::ConnectFailed, second(at));
    }

    #[test]
    fn the_least_loaded_replica_is_chosen_and_equals_take_turns() {
        let mut book = ReplicaBook::new();
        let ready = [replica(1), replica(2), replica(3)];
        let seats: Vec<Seat> = (0..5).filter_map(|_| book.choose(&ready, None, second(0))).collect();
        let chosen: Vec<ReplicaId> = seats.iter().map(Seat::replica).collect();
        assert_eq!(chosen, [replica(1), replica(2), replica(3), replica(1), replica(2)]);
        for seat in seats.into_iter().filter(|seat| seat.replica() == replica(2)) {
            book.release(seat, Ending::Answered, second(0));
        }
        assert_eq!(book.choose(&ready, None, second(0)).map(|seat| seat.replica()), Some(replica(2)));
        assert!(book.choose(&[], None, second(0)).is_none());
    }

    #[test]
    fn a_failed_replica_is_avoided_unless_it_is_the_only_one() {
        let mut book = ReplicaBook::new();
        let ready = [replica(1), replica(2)];
        let busy = book.choose(&ready[1..], None, second(0)).expect("ready");
        assert_eq!(book.choose(&ready, Some(replica(1)), second(0)).map(|seat| seat.replica()), Some(replica(2)));
        assert_eq!(book.choose(&ready[..1], Some(replica(1)), second(0)).map(|seat| seat.replica()), Some(replica(1)));
        book.release(busy, Ending::Answered, second(0));
    }

    #[test]
    fn three_failures_in_a_row_eject_for_twice_as_long_each_time() {
        let mut book = ReplicaBook::new();
        fail(&mut book, 0);
        fail(&mut book, 0);
        assert!(!book.is_resting(replica(1), second(0)));
        fail(&mut book, 0);
        assert!(book.is_resting(replica(1), second(0)) && !book.is_resting(replica(1), second(1)));
        fail(&mut book, 1);
        assert!(book.is_resting(replica(1), second(2)) && !book.is_resting(replica(1), second(3)));
        let ready = [replica(1), replica(2)];
        let seats: Vec<Seat> = (0..4).filter_map(|_| book.choose(&ready, None, second(2))).collect();
        assert!(seats.iter().all(|seat| seat.replica() == replica(2)), "the resting one gets nothing");
        let probe = book.choose(&ready[..1], None, second(2)).expect("when all rest, one is tried");
        book.release(probe, Ending::Answered, second(2));
        assert!(!book.is_resting(replica(1), second(2)), "one answer ends the rest");
    }

    #[test]
    fn only_failures_in_a_row_eject_and_never_for_more_than_half_a_minute() {
        let mut book = ReplicaBook::new();
        let mut end = |ending, at| {
            let seat = book.choose(&[replica(1)], None, second(at)).expect("one is ready");
            book.release(seat, ending, second(at));
            book.is_resting(replica(1), second(at))
        };
        use Ending::{Answered, Broken, Busy, Cancelled};
        for ending in [Broken, Broken, Answered, Broken, Broken, Busy, Busy, Cancelled, Cancelled] {
            assert!(!end(ending, 0), "{ending:?}");
        }
        for _ in 0..20 {
            assert!(end(Broken, 0));
        }
        assert!(!book.is_resting(replica(1), second(30)));
    }

    #[test]
    fn a_request_is_retried_once_before_the_first_byte_and_never_for_the_callers_fault() {
        use Next::{Finish, Retry};
        let first = |ending| after_attempt(1, Progress::BeforeFirstByte, ending);
        assert_eq!(
            [Ending::ConnectFailed, Ending::Broken, Ending::Busy, Ending::ServerError(500)].map(first),
            [Retry; 4]
        );
        assert_eq!([Ending::Answered, Ending::TimedOut, Ending::Cancelled].map(first), [Finish; 3]);
        assert_eq!(after_attempt(2, Progress::BeforeFirstByte, Ending::ConnectFailed), Finish);
        assert_eq!(after_attempt(1, Progress::Started, Ending::Broken), Finish);
        assert_eq!([400, 404, 413, 429].map(ending_of_status), [Ending::Answered; 4]);
        assert_eq!((ending_of_status(503), ending_of_status(502)), (Ending::Busy, Ending::ServerError(502)));
    }

    proptest! {
        #[test]
        fn a_new_request_never_goes_to_a_replica_with_more_in_flight_than_another(steps in proptest::collection::vec((any::<bool>(), 0usize..8), 1..200)) {
            let mut book = ReplicaBook::new();
            let ready: Vec<ReplicaId> = (1..5).map(replica).collect();
            let mut seats: Vec<Seat> = Vec::new();
            for (leave, at) in steps {
                if leave && at < seats.len() {
                    book.release(seats.swap_remove(at), Ending::Answered, second(0));
                } else {
                    let least = ready.iter().map(|id| book.in_flight(*id)).min();
                    let seat = book.choose(&ready, None, second(0)).expect("ready");
                    prop_assert_eq!(Some(book.in_flight(seat.replica()) - 1), least);
                    seats.push(seat);
                }
                let in_flight: u32 = ready.iter().map(|id| book.in_flight(*id)).sum();
                prop_assert_eq!(usize::try_from(in_flight), Ok(seats.len()));
            }
        }
    }
}
