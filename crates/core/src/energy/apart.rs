//! Energy of a node that meters of its replicas have booked, and that its own reading leaves out: one energy, one meter.
//!
//! A replica's share is booked when the requests of its time are known, which may be minutes after the node's reading of that
//! time; so what is owed is carried over. It is never more than the node's own meters lately showed: a meter that shows more than
//! they do measures something else too, and would else keep the node's readings empty for as long as it had run.

use std::collections::VecDeque;

use galerne_model::ids::ReadingId;
use galerne_model::limits::REQUEST_DEADLINE_MS;
use galerne_model::units::Millijoules;
use jiff::Timestamp;

/// The longest a share may be behind: the longest request, and a minute for its record and for the node's reading.
const BEHIND_MAX_MICROS: i64 = (REQUEST_DEADLINE_MS as i64 + 60_000) * 1_000;

/// What the readings of one node have to leave out.
#[derive(Debug, Default)]
pub struct Apart {
    owed: i64,
    /// What the node's meters showed lately: the end of each reading in microseconds, and its millijoules.
    shown: VecDeque<(i64, i64)>,
    /// The reading that is being booked, and what it leaves out.
    booking: Option<(ReadingId, i64)>,
}

impl Apart {
    /// The meter of a replica on this node has booked this.
    pub fn booked(&mut self, millijoules: Millijoules) {
        self.owed = self.owed.saturating_add(millijoules.0);
    }

    /// What the reading `id` of the node leaves out. Asked again for the same reading it says the same: it may be booked already.
    pub fn leave_out(&mut self, id: ReadingId, ended_at: Timestamp, millijoules: Millijoules) -> Millijoules {
        if let Some((asked, left_out)) = self.booking
            && asked == id
        {
            return Millijoules(left_out);
        }
        let now = ended_at.as_microsecond();
        self.shown.push_back((now, millijoules.0.max(0)));
        self.shown.retain(|(at, _)| now.saturating_sub(*at) <= BEHIND_MAX_MICROS);
        let most = self.shown.iter().fold(0_i64, |sum, (_, millijoules)| sum.saturating_add(*millijoules));
        self.owed = self.owed.min(most);
        let left_out = self.owed.clamp(0, millijoules.0.max(0));
        self.booking = Some((id, left_out));
        Millijoules(left_out)
    }

    /// The reading `id` is booked.
    pub fn done(&mut self, id: ReadingId) {
        if let Some((_, left_out)) = self.booking.take_if(|(asked, _)| *asked == id) {
            self.owed -= left_out;
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn reading(n: u128) -> ReadingId {
        ReadingId::from_uuid(Uuid::from_u128(n))
    }

    fn after(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    /// The reading of one interval, booked at once: what is left of it.
    fn book(apart: &mut Apart, n: i64, millijoules: i64) -> i64 {
        let id = reading(n.unsigned_abs().into());
        let left_out = apart.leave_out(id, after(10 * n), Millijoules(millijoules));
        apart.done(id);
        millijoules - left_out.0
    }

    #[test]
    fn what_comes_late_is_left_out_of_the_next_readings() {
        let mut apart = Apart::default();
        assert_eq!([1, 2, 3].map(|n| book(&mut apart, n, 1_000)), [1_000; 3]);
        // A request of half a minute is through: 2.5 of those 3 J were its replica's.
        apart.booked(Millijoules(2_500));
        assert_eq!([4, 5, 6, 7].map(|n| book(&mut apart, n, 1_000)), [0, 0, 500, 1_000]);
    }

    #[test]
    fn a_meter_that_shows_more_than_the_node_is_forgotten_with_it() {
        let mut apart = Apart::default();
        // A plug with three times what the node's counters see, for a day.
        for n in 0..8_640 {
            apart.booked(Millijoules(3_000));
            assert_eq!(book(&mut apart, n, 1_000), 0);
        }
        let empty = (8_640..17_280).take_while(|n| book(&mut apart, *n, 1_000) == 0).count();
        assert!(empty <= 67, "{empty} readings, where 11 minutes have 66");
    }

    #[test]
    fn a_reading_that_is_booked_again_leaves_out_the_same_once() {
        let mut apart = Apart::default();
        apart.booked(Millijoules(300));
        assert_eq!(apart.leave_out(reading(1), after(0), Millijoules(1_000)), Millijoules(300));
        // Its answer was lost, and meanwhile a replica has booked more.
        apart.booked(Millijoules(200));
        assert_eq!(apart.leave_out(reading(1), after(0), Millijoules(1_000)), Millijoules(300));
        apart.done(reading(1));
        apart.done(reading(1));
        assert_eq!(apart.leave_out(reading(2), after(10), Millijoules(1_000)), Millijoules(200));
    }
}
