//! Whether deadlines can still be kept: a density test for work that is all there and may be interrupted.
//!
//! By the max-flow min-cut theorem the work fits exactly if no set of hours is asked for more than it holds. All
//! windows begin now, so of all sets of so many hours the first ones are asked for most; and what they are asked for,
//! less what they hold, is greatest at a deadline. What is left is one inequality for each deadline.
//! Deliberately absent: work still to come (see `rolling`), and hours of different capacity (see `flow`).

/// What is left of some work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remaining {
    /// Hours it must still run.
    pub hours: i64,
    /// Hours from now until its deadline.
    pub window: i64,
    /// Units it takes while it runs. Wider work counts as so many units that need not run together.
    pub width: i64,
}

/// Whether all of it can be done by its deadlines on `capacity` units.
pub fn is_safe(work: &[Remaining], capacity: i64) -> bool {
    let mut deadlines: Vec<i64> = work.iter().filter(|one| one.hours > 0).map(|one| one.window).collect();
    deadlines.sort_unstable();
    deadlines.dedup();
    let each_fits = work.iter().all(|one| one.hours <= one.window.max(0));
    each_fits && deadlines.iter().all(|&end| work.iter().map(|one| before(one, end)).sum::<i64>() <= capacity * end)
}

/// Unit-hours that cannot wait until `end`.
fn before(one: &Remaining, end: i64) -> i64 {
    (one.hours - (one.window - end).max(0)).max(0) * one.width
}
