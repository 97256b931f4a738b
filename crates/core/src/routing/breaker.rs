//! The breaker of a replica, and the judgement over replicas that fall behind their like.
//!
//! Closed → open after [`FAILURES_TO_OPEN`] failures in a row, for twice as long each time → half-open: one request at a
//! time tries it → closed by an answer, open again by a failure. Beside it, a replica whose errors or pace are far from
//! the others' is set aside for a while, never more than half of an endpoint's.

use jiff::{SignedDuration, Timestamp};

use super::Ending;
use super::rates::Average;

/// Failures in a row before a breaker opens: one may be chance, three are not.
const FAILURES_TO_OPEN: u32 = 3;
/// First rest; a restarted worker is back in about this time.
const REST_MIN: SignedDuration = SignedDuration::from_secs(1);
/// Longest rest; the endpoint loop's own probes act sooner than this on a dead replica.
const REST_MAX: SignedDuration = SignedDuration::from_secs(30);
/// First time aside of an outlier.
const ASIDE_MIN: SignedDuration = SignedDuration::from_secs(30);
/// Longest time aside.
const ASIDE_MAX: SignedDuration = SignedDuration::from_secs(300);
/// Attempts before a replica is judged.
const ATTEMPTS_TO_JUDGE: u32 = 12;
/// Thousandths of attempts that fail before a replica may be an outlier.
const ERRORS_MIN: u64 = 250;
/// How many times the others' median errors or pace make an outlier.
const TIMES_THE_OTHERS: u64 = 3;

/// Whether a replica gets requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// It does.
    Closed,
    /// It rested; the next request tries it.
    HalfOpen,
    /// A request is trying it.
    Trying,
    /// Set aside: its errors or its pace are far from the others'.
    Aside,
    /// It rests after failures.
    Open,
}

/// What is remembered of a replica's failures.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Breaker {
    failures_in_row: u32,
    /// Since it last closed.
    openings: u32,
    /// Since this replica was met.
    pub(super) opened: u64,
    /// When the rest ends; present until an answer closes the breaker.
    rests_until: Option<Timestamp>,
    trying: bool,
    errors: Average,
    asides: u32,
    aside_until: Option<Timestamp>,
}

/// What a replica shows to the judgement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Showing {
    pub(super) errors: u64,
    pub(super) pace: u64,
    pub(super) is_aside: bool,
    /// Whether it has shown enough errors or answers, and enough of its pace.
    pub(super) attempts: u32,
    pub(super) paces: u32,
}

impl Breaker {
    /// That of another process in the same place: of the past only the count stays.
    pub(super) fn anew(&self) -> Self {
        Self { opened: self.opened, ..Self::default() }
    }

    pub(super) fn state(&self, now: Timestamp) -> BreakerState {
        match (self.rests_until, self.aside_until) {
            (Some(until), _) if until > now => BreakerState::Open,
            (_, Some(until)) if until > now => BreakerState::Aside,
            (Some(_), _) if self.trying => BreakerState::Trying,
            (Some(_), _) => BreakerState::HalfOpen,
            (None, _) => BreakerState::Closed,
        }
    }

    /// When a rest or a time aside ends.
    pub(super) fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.rests_until.into_iter().chain(self.aside_until).filter(|until| *until > now).max()
    }

    /// A request is sent. True when it is the one that tries a half-open breaker.
    pub(super) fn enter(&mut self, now: Timestamp) -> bool {
        let tries = self.state(now) == BreakerState::HalfOpen;
        self.trying |= tries;
        tries
    }

    /// A request ended; `tried` is what `enter` said. True when the breaker closed: the replica is back.
    pub(super) fn leave(&mut self, ending: Ending, tried: bool, now: Timestamp) -> bool {
        if tried {
            self.trying = false;
        }
        match ending {
            Ending::Answered => {
                self.errors.add(0);
                self.answers()
            }
            Ending::ConnectFailed | Ending::Broken | Ending::TimedOut | Ending::ServerError(_) => {
                self.errors.add(1_000);
                self.fail(now);
                false
            }
            // Busy is not broken, and a client that leaves says nothing about the replica.
            Ending::Busy | Ending::Cancelled => false,
        }
    }

    /// An answer has begun. True when the breaker closed: the replica is back.
    pub(super) fn answers(&mut self) -> bool {
        (self.failures_in_row, self.openings, self.trying) = (0, 0, false);
        self.rests_until.take().is_some()
    }

    fn fail(&mut self, now: Timestamp) {
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        // Those that were sent before it opened fail with it and say nothing new.
        let rests = self.rests_until.is_some_and(|until| until > now);
        if self.failures_in_row >= FAILURES_TO_OPEN && !rests {
            self.rests_until = Some(later(now, REST_MIN, REST_MAX, self.openings));
            self.openings = self.openings.saturating_add(1);
            self.opened = self.opened.saturating_add(1);
        }
    }

    pub(super) fn showing(&self, pace: u64, paces: u32, now: Timestamp) -> Showing {
        let is_aside = self.aside_until.is_some_and(|until| until > now);
        Showing { errors: self.errors.get().unwrap_or(0), pace, is_aside, attempts: self.errors.samples, paces }
    }

    /// Sets a replica aside. It is judged anew by what it shows after that.
    pub(super) fn set_aside(&mut self, now: Timestamp) -> Timestamp {
        let until = later(now, ASIDE_MIN, ASIDE_MAX, self.asides);
        self.asides = self.asides.saturating_add(1);
        self.aside_until = Some(until);
        self.errors = Average::default();
        until
    }
}

/// Whom to set aside among the replicas of one endpoint; positions in `shown`.
pub(super) fn outliers(shown: &[Showing]) -> Vec<usize> {
    let aside = shown.iter().filter(|showing| showing.is_aside).count();
    let mut room = (shown.len() / 2).saturating_sub(aside);
    let mut worst: Vec<(u64, usize)> =
        (0..shown.len()).filter_map(|at| distance(shown, at).map(|distance| (distance, at))).collect();
    worst.sort_unstable_by(|a, b| b.cmp(a));
    worst.retain(|_| {
        let fits = room > 0;
        room = room.saturating_sub(1);
        fits
    });
    worst.into_iter().map(|(_, at)| at).collect()
}

/// How far a replica is from the others, in thousandths of what they show; nothing when it is one of them.
fn distance(shown: &[Showing], at: usize) -> Option<u64> {
    let one = shown[at];
    if one.is_aside {
        return None;
    }
    let others = || shown.iter().enumerate().filter(|(other, showing)| *other != at && !showing.is_aside);
    let ratio = |value: u64, usual: u64| value.saturating_mul(1_000) / usual.max(1);
    let far = |ratio: u64| ratio >= TIMES_THE_OTHERS * 1_000;
    let errors = (one.attempts >= ATTEMPTS_TO_JUDGE && one.errors >= ERRORS_MIN)
        .then(|| {
            median(others().filter(|(_, other)| other.attempts >= ATTEMPTS_TO_JUDGE).map(|(_, other)| other.errors))
        })
        .flatten()
        .map(|usual| ratio(one.errors, usual.max(10)));
    let pace = (one.paces >= ATTEMPTS_TO_JUDGE)
        .then(|| median(others().filter(|(_, other)| other.paces >= ATTEMPTS_TO_JUDGE).map(|(_, other)| other.pace)))
        .flatten()
        .map(|usual| ratio(one.pace, usual));
    errors.into_iter().chain(pace).filter(|ratio| far(*ratio)).max()
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn later(now: Timestamp, least: SignedDuration, most: SignedDuration, doublings: u32) -> Timestamp {
    let doubled = 1i32.checked_shl(doublings.min(16)).unwrap_or(i32::MAX);
    let rest = least.checked_mul(doubled).unwrap_or(most).min(most);
    now.saturating_add(rest).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + n).expect("in range")
    }

    fn end(breaker: &mut Breaker, ending: Ending, at: i64) -> BreakerState {
        let tried = breaker.enter(second(at));
        breaker.leave(ending, tried, second(at));
        breaker.state(second(at))
    }

    #[test]
    fn three_failures_in_a_row_open_for_twice_as_long_each_time() {
        use BreakerState::{Closed, HalfOpen, Open};
        let mut breaker = Breaker::default();
        assert_eq!([0; 3].map(|at| end(&mut breaker, Ending::ConnectFailed, at)), [Closed, Closed, Open]);
        assert_eq!(breaker.state(second(1)), HalfOpen);
        assert_eq!(end(&mut breaker, Ending::ConnectFailed, 1), Open);
        assert_eq!([2, 3].map(|at| breaker.state(second(at))), [Open, HalfOpen]);
        for at in 0..20 {
            end(&mut breaker, Ending::Broken, 100 + 40 * at);
        }
        let last = 100 + 40 * 19;
        assert_eq!([last + 29, last + 30].map(|at| breaker.state(second(at))), [Open, HalfOpen]);
        assert_eq!(breaker.opened, 22, "each rest is counted");
        assert_eq!(end(&mut breaker, Ending::Answered, last + 30), Closed);
        assert_eq!(breaker.opened, 22, "an answer closes it, what happened stays counted");
    }

    #[test]
    fn one_request_at_a_time_tries_a_half_open_breaker() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            end(&mut breaker, Ending::TimedOut, 0);
        }
        assert!(breaker.enter(second(1)));
        assert_eq!(breaker.state(second(1)), BreakerState::Trying);
        assert!(!breaker.enter(second(1)), "the second does not try");
        assert!(!breaker.leave(Ending::Cancelled, true, second(1)), "the client left: the next may try");
        assert_eq!(breaker.state(second(1)), BreakerState::HalfOpen);
        assert!(breaker.enter(second(1)) && breaker.leave(Ending::Answered, true, second(1)));
        assert_eq!(breaker.state(second(1)), BreakerState::Closed);
    }

    #[test]
    fn only_failures_in_a_row_count_and_busy_is_no_failure() {
        use Ending::{Answered, Broken, Busy, Cancelled};
        let mut breaker = Breaker::default();
        for ending in [Broken, Broken, Answered, Broken, Broken, Busy, Busy, Cancelled, Cancelled] {
            assert_eq!(end(&mut breaker, ending, 0), BreakerState::Closed, "{ending:?}");
        }
        assert_eq!(end(&mut breaker, Broken, 0), BreakerState::Open);
    }

    const FINE: Showing = Showing { errors: 5, pace: 1_000, is_aside: false, attempts: 50, paces: 50 };

    #[test]
    fn those_far_from_the_others_are_outliers_and_at_most_half_of_them() {
        let slow = Showing { pace: 4_000, ..FINE };
        let failing = Showing { errors: 400, ..FINE };
        assert_eq!(outliers(&[FINE; 4]), Vec::<usize>::new());
        assert_eq!(outliers(&[FINE, slow, FINE]), [1]);
        assert_eq!(outliers(&[FINE, FINE, failing, FINE]), [2]);
        assert_eq!(outliers(&[slow, FINE]), [0]);
        assert_eq!(outliers(&[slow]), Vec::<usize>::new(), "alone it is compared with nobody");
        let slower = Showing { pace: 5_000, ..FINE };
        assert_eq!(outliers(&[slow, slower, FINE, FINE, FINE]), [1, 0]);
        let aside = Showing { is_aside: true, ..slow };
        assert_eq!(outliers(&[aside, slower, FINE]), Vec::<usize>::new(), "half of three is one");
        assert_eq!(outliers(&[aside, slower, FINE, FINE]), [1]);
    }

    #[test]
    fn who_has_shown_little_is_not_judged_and_all_that_are_slow_are_none() {
        let new = Showing { errors: 1_000, pace: 9_000, attempts: 3, paces: 3, ..FINE };
        assert_eq!(outliers(&[new, FINE, FINE]), Vec::<usize>::new());
        assert_eq!(outliers(&[Showing { pace: 8_000, errors: 900, ..FINE }; 4]), Vec::<usize>::new());
    }

    #[test]
    fn an_outlier_comes_back_and_stays_away_longer_the_next_time() {
        let mut breaker = Breaker::default();
        breaker.set_aside(second(0));
        assert_eq!([29, 30].map(|at| breaker.state(second(at))), [BreakerState::Aside, BreakerState::Closed]);
        breaker.set_aside(second(30));
        assert_eq!([89, 90].map(|at| breaker.state(second(at))), [BreakerState::Aside, BreakerState::Closed]);
    }
}
