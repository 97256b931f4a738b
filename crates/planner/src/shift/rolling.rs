//! Hour by hour: which deferrable work runs now, while more keeps arriving that nobody announced.
//!
//! Every hour the known work is spread anew by `flow`, together with the work that arrived one period ago, as if it
//! came again: so scarce hours are not promised twice, and work is not put off into hours that others will need.
//! Last period is one draw of what may come. Were arrivals independent, the demand of one deadline would vary by the
//! square root of the sum of the squares of its parts (a compound Poisson sum, from one period alone). When
//! `ALARM_DEVIATIONS` more than last period would miss something, the plan is made for `PLAN_DEVIATIONS` more.
//! Deliberately absent: any look at work or costs of later hours beyond the forecast that is given.

use std::collections::{BTreeMap, VecDeque};

use super::flow::{Problem, Work};
use super::safety::{Remaining, is_safe};

/// Hours after which arrivals are expected to repeat: what people ask for follows their week.
pub const PERIOD: usize = 168;
/// Before a period has passed, whole days repeat.
const DAY: usize = 24;
/// Standard deviations above last period that are planned for when deadlines are in danger.
const PLAN_DEVIATIONS: i64 = 1;
/// Standard deviations above last period that must fit, or deadlines are in danger: one period in 700 has more.
const ALARM_DEVIATIONS: i64 = 3;

/// Work that may be interrupted at the end of any hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// The caller's number.
    pub number: u64,
    /// Hours it must run.
    pub hours: i64,
    /// The first hour it may not use.
    pub deadline: usize,
    /// Units it takes while it runs.
    pub width: i64,
}

/// What is known at the beginning of an hour.
#[derive(Debug, Clone)]
pub struct Rolling {
    began: usize,
    now: usize,
    live: Vec<Task>,
    /// Arrivals of the last period with their hours, oldest first.
    past: VecDeque<(usize, Task)>,
    missed: i64,
}

impl Rolling {
    /// Begins at `hour` with nothing known.
    pub const fn new(hour: usize) -> Self {
        Self { began: hour, now: hour, live: Vec::new(), past: VecDeque::new(), missed: 0 }
    }

    /// Unit-hours that were due and not run.
    pub const fn missed(&self) -> i64 {
        self.missed
    }

    /// Work that was asked for before or at the present hour.
    pub fn arrive(&mut self, task: Task) {
        if task.hours <= 0 || task.width <= 0 {
            return;
        }
        if task.deadline <= self.now {
            self.missed += task.hours * task.width;
            return;
        }
        self.live.push(task);
        self.past.push_back((self.now, task));
    }

    /// What runs in the present hour, by number; then the hour passes. `cost` is the forecast from the present hour
    /// on (its last holds for what is beyond) and `capacity` the units of every hour.
    pub fn run(&mut self, cost: &[i64], capacity: i64) -> Vec<u64> {
        let mut running = self.choose(cost, capacity);
        let mut numbers: Vec<u64> = Vec::with_capacity(running.len());
        running.sort_unstable();
        for &index in &running {
            self.live[index].hours -= 1;
            numbers.push(self.live[index].number);
        }
        self.now += 1;
        let now = self.now;
        let due = |task: &&Task| task.deadline <= now;
        self.missed += self.live.iter().filter(due).map(|task| task.hours * task.width).sum::<i64>();
        self.live.retain(|task| task.hours > 0 && task.deadline > now);
        while self.past.front().is_some_and(|&(arrived, _)| arrived + PERIOD < now) {
            self.past.pop_front();
        }
        numbers
    }

    /// Places in `live` of what should run now.
    fn choose(&self, cost: &[i64], capacity: i64) -> Vec<usize> {
        let Some(horizon) = self.live.iter().map(|task| task.deadline - self.now).max() else { return Vec::new() };
        let Some(expected) = self.expected(horizon, 0) else {
            // Nothing was seen yet from which to expect anything: what can run, runs.
            return self.fitting(capacity, capacity, &BTreeMap::new());
        };
        let alarm = self.expected(horizon, ALARM_DEVIATIONS).unwrap_or_default();
        let known: i64 = self.live.iter().map(|task| task.width).sum();
        if known + alarm.iter().map(|work| work.width).sum::<i64>() <= capacity {
            // Nobody can be in another's way.
            let now = self.spread(&[], cost, capacity);
            return self.fitting(now.values().sum(), capacity, &now);
        }
        let work = if self.would_miss(&alarm, capacity) {
            self.expected(horizon, PLAN_DEVIATIONS).unwrap_or(expected)
        } else {
            expected
        };
        let now = self.spread(&work, cost, capacity);
        let running = self.fitting(now.values().sum(), capacity, &now);
        if self.is_safe_after(&running, capacity) {
            return running;
        }
        // The plan would miss known work for the sake of work that may never come: what is put off must be safe by
        // itself. What the known work alone runs now leaves a plan for its rest, if there is any.
        let now = self.spread(&[], cost, capacity);
        let running = self.fitting(now.values().sum::<i64>().max(self.units(&running)), capacity, &now);
        if self.is_safe_after(&running, capacity) { running } else { self.fitting(capacity, capacity, &now) }
    }

    fn units(&self, running: &[usize]) -> i64 {
        running.iter().map(|&index| self.live[index].width).sum()
    }

    /// Whether all known work can be done by its deadlines when just this runs now.
    fn is_safe_after(&self, running: &[usize], capacity: i64) -> bool {
        let window = |task: &Task| i64::try_from(task.deadline - self.now).unwrap_or(i64::MAX) - 1;
        let left = |task: &Task| Remaining { hours: task.hours, window: window(task), width: task.width };
        let mut remaining: Vec<Remaining> = self.live.iter().map(left).collect();
        for &index in running {
            remaining[index].hours -= 1;
        }
        is_safe(&remaining, capacity)
    }

    /// Known work as the flow sees it, with `expected` work behind it, and the hours they reach into.
    fn all_work(&self, expected: &[Work]) -> (Vec<Work>, usize) {
        let known = self.live.iter().map(|task| Work {
            from: 0,
            until: task.deadline - self.now,
            demand: task.hours * task.width,
            width: task.width,
        });
        let work: Vec<Work> = known.chain(expected.iter().copied()).collect();
        let hours = work.iter().map(|work| work.until).max().unwrap_or(0);
        (work, hours)
    }

    /// Whether all of it cannot be done in time, whatever it costs.
    fn would_miss(&self, expected: &[Work], capacity: i64) -> bool {
        let (work, hours) = self.all_work(expected);
        // Any costs do; the earlier the cheaper is found fastest.
        let cost: Vec<i64> = (0..).take(hours).collect();
        Problem { cost: &cost, capacity: &vec![capacity; hours], work: &work }.served().missed_total() > 0
    }

    /// Units that known work takes now in the best plan with `expected` work beside it.
    fn spread(&self, expected: &[Work], cost: &[i64], capacity: i64) -> BTreeMap<usize, i64> {
        let (work, hours) = self.all_work(expected);
        let beyond = cost.last().copied().unwrap_or(0);
        let cost: Vec<i64> = cost.iter().copied().chain(std::iter::repeat(beyond)).take(hours).collect();
        let spread = Problem { cost: &cost, capacity: &vec![capacity; hours], work: &work }.served();
        (0..self.live.len()).map(|index| (index, spread.of(index)[0])).filter(|&(_, units)| units > 0).collect()
    }

    /// Whole tasks until so many units are reached: those the plan runs now first, then those with the least slack.
    fn fitting(&self, units: i64, capacity: i64, planned: &BTreeMap<usize, i64>) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.live.len()).collect();
        order.sort_unstable_by_key(|&index| {
            let task = &self.live[index];
            let slack = i64::try_from(task.deadline - self.now).unwrap_or(i64::MAX) - task.hours;
            (std::cmp::Reverse(planned.get(&index).copied().unwrap_or(0)), slack, task.number)
        });
        let mut taken = 0;
        order.retain(|&index| {
            let width = self.live[index].width;
            let fits = taken < units && taken + width <= capacity;
            taken += if fits { width } else { 0 };
            fits
        });
        order
    }

    /// Work to come within `horizon` hours, if last period repeats with so many standard deviations more; `None`
    /// before a day was seen.
    fn expected(&self, horizon: usize, deviations: i64) -> Option<Vec<Work>> {
        let seen = self.now - self.began;
        let period = if seen >= PERIOD { PERIOD } else { seen / DAY * DAY };
        let began = self.now.checked_sub(period).filter(|_| period > 0)?;
        let mut work = Vec::new();
        for start in (0..horizon).step_by(period) {
            for &(arrived, task) in self.past.iter().skip_while(|&&(arrived, _)| arrived <= began) {
                let from = start + arrived - began;
                if from < horizon {
                    let until = start + task.deadline - began;
                    work.push(Work { from, until, demand: task.hours * task.width, width: task.width });
                }
            }
        }
        thicken(&mut work, deviations);
        Some(work)
    }
}

/// Repeats some of the work, evenly, so that for every deadline the demand up to it grows by so many standard
/// deviations of the demand up to it.
fn thicken(work: &mut Vec<Work>, deviations: i64) {
    let mut sums: BTreeMap<usize, (i64, i64)> = BTreeMap::new();
    for one in work.iter() {
        let (demand, squares) = sums.entry(one.until).or_default();
        *demand += one.demand;
        *squares += one.demand * one.demand;
    }
    let (mut variance, mut before) = (0_i64, 0);
    for (_, grows) in sums.values_mut() {
        variance += *grows;
        let more = deviations * variance.isqrt();
        *grows = more - before;
        before = more;
    }
    let mut owed = 0;
    let count = if deviations > 0 { work.len() } else { 0 };
    for index in 0..count {
        let one = work[index];
        let (demand, grows) = sums[&one.until];
        owed += one.demand * grows / demand;
        while owed >= one.demand {
            owed -= one.demand;
            work.push(one);
        }
    }
}
