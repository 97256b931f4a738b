//! From hours to waits: each request gets a start.
//!
//! The flow over classes of equal windows gives every hour a price beside its cost. Requests that run in one piece
//! then take, shortest slack first, the start with the smallest sum of cost and price over their whole run that still
//! has room; requests that may pause take the first hour the flow gives their class. The list of starts is itself the
//! proof that deadlines are safe: all of them fit together. Requests it has no room for are not held.

use std::collections::BTreeMap;

use super::flow::{Problem, Spread, Work};
use super::{Deferrable, Pauses, Running, Shift};
use crate::event::Forecast;
use crate::plan::Hold;
use crate::units::At;

/// Steps looked ahead at most: four weeks of hours. More would cost time and gain nothing that a forecast knows.
const MAX_STEPS: usize = 672;

pub(super) fn holds(forecast: &Forecast, waiting: &[Deferrable], running: &[Running], now: At) -> Shift {
    let Some(mut hours) = Hours::new(forecast, running, now) else {
        // A forecast that begins later says something then.
        let begins = if now < forecast.from { forecast.from } else { At::NEVER };
        return Shift { valid_until: begins, ..Shift::default() };
    };
    let mut movable: Vec<Choice> = waiting.iter().filter_map(|request| hours.choice(request)).collect();
    movable.sort_unstable_by_key(|choice| (choice.latest, choice.request.request));
    let classes = Classes::new(&movable);
    let spread = classes.spread(&hours);
    hours.price(&spread);
    let mut holds = classes.firsts(&movable, &spread, &mut hours);
    for choice in movable.iter().filter(|choice| choice.request.pauses == Pauses::Never) {
        if let Some(step) = hours.take_cheapest(choice)
            && step > 0
        {
            holds.push(Hold { request: choice.request.request, until: hours.begins(step) });
        }
    }
    holds.sort_unstable_by_key(|hold| hold.request);
    // Who may not begin yet may when that has passed, also in the middle of a step.
    let ripe = waiting.iter().filter_map(|request| request.not_before).filter(|at| *at > now).min();
    let valid_until = hours.begins(1).min(ripe.unwrap_or(At::NEVER));
    Shift { holds, valid_until, soft_cap: hours.used }
}

/// The forecast from the step of `now` on.
struct Hours {
    now: At,
    /// When the step of `now` began.
    began: At,
    step: i64,
    cost: Vec<i64>,
    /// Thousandths of a GPU left for requests that wait.
    room: Vec<i64>,
    /// What is planned, running work included.
    used: Vec<i64>,
    /// Sums of cost and price over the steps before each.
    worth: Vec<i64>,
}

/// A request that could begin later than now.
struct Choice<'a> {
    request: &'a Deferrable,
    /// Steps it touches when it begins with one.
    steps: usize,
    earliest: usize,
    /// Last step with whose beginning it may start.
    latest: usize,
}

fn count(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn signed(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Hours {
    /// `None` where the forecast says nothing about now.
    fn new(forecast: &Forecast, running: &[Running], now: At) -> Option<Self> {
        let step = i64::from(forecast.step_seconds);
        if step == 0 || now < forecast.from {
            return None;
        }
        let first = count(now.since(forecast.from) / step);
        let cost: Vec<i64> = forecast.cost.iter().skip(first).take(MAX_STEPS).map(|&cost| i64::from(cost)).collect();
        if cost.is_empty() {
            return None;
        }
        let last = forecast.gpu_milli.last().copied().unwrap_or(i64::MAX);
        let room = (first..).take(cost.len()).map(|step| forecast.gpu_milli.get(step).copied().unwrap_or(last).max(0));
        let began = forecast.from.plus(signed(first) * step);
        let mut hours = Self {
            now,
            began,
            step,
            room: room.collect(),
            used: vec![0; cost.len()],
            worth: vec![0; cost.len() + 1],
            cost,
        };
        for lease in running {
            hours.take(0, hours.touched(lease.ends_at.since(began)), lease.gpu_milli);
        }
        Some(hours)
    }

    fn begins(&self, step: usize) -> At {
        self.began.plus(signed(step) * self.step)
    }

    /// Steps that a run of so many seconds touches when it begins with one.
    fn touched(&self, seconds: i64) -> usize {
        count(seconds.saturating_add(self.step - 1) / self.step)
    }

    fn take(&mut self, from: usize, steps: usize, gpu_milli: i64) {
        for step in from..from.saturating_add(steps).min(self.room.len()) {
            self.room[step] = self.room[step].saturating_sub(gpu_milli).max(0);
            self.used[step] = self.used[step].saturating_add(gpu_milli);
        }
    }

    /// What there is to choose for a request; `None` where its run cannot end in time within the forecast.
    fn choice<'a>(&self, request: &'a Deferrable) -> Option<Choice<'a>> {
        let steps = self.touched(i64::from(request.run_seconds)).max(1);
        let earliest = match request.not_before {
            Some(at) if at > self.now => self.touched(at.since(self.began)),
            _ => 0,
        };
        let slack = request.deadline.since(self.began).checked_sub(i64::from(request.run_seconds))?;
        let latest = count(slack.max(-1).div_euclid(self.step).max(0)).min(self.cost.len().checked_sub(steps)?);
        (slack >= 0 && earliest <= latest && request.gpu_milli > 0).then_some(Choice {
            request,
            steps,
            earliest,
            latest,
        })
    }

    /// Takes over the prices of a plan.
    fn price(&mut self, spread: &Spread) {
        let mut sum = 0;
        for (step, (cost, price)) in self.cost.iter().zip(&spread.price).enumerate() {
            sum += cost + price;
            self.worth[step + 1] = sum;
        }
    }

    /// Takes the cheapest stretch that has room for the whole run; the earliest of equals.
    fn take_cheapest(&mut self, choice: &Choice) -> Option<usize> {
        let (asked, steps) = (choice.request.gpu_milli, choice.steps);
        let mut best = None;
        let mut free = 0;
        for step in choice.earliest..choice.latest + steps {
            free = if self.room[step] >= asked { free + 1 } else { 0 };
            if free >= steps {
                let start = step + 1 - steps;
                let found = (self.worth[start + steps] - self.worth[start], start);
                best = Some(best.map_or(found, |best: (i64, usize)| best.min(found)));
            }
        }
        let (_, start) = best?;
        self.take(start, steps, asked);
        Some(start)
    }
}

/// Requests with the same window and length count as one work.
struct Classes {
    work: Vec<Work>,
    pauses: Vec<Pauses>,
    /// The class of each choice.
    class: Vec<usize>,
}

impl Classes {
    fn new(movable: &[Choice]) -> Self {
        let mut known: BTreeMap<(usize, usize, usize, Pauses), usize> = BTreeMap::new();
        let mut classes = Self { work: Vec::new(), pauses: Vec::new(), class: Vec::with_capacity(movable.len()) };
        for choice in movable {
            let key = (choice.earliest, choice.latest, choice.steps, choice.request.pauses);
            let class = *known.entry(key).or_insert(classes.work.len());
            if class == classes.work.len() {
                let (from, until) = (choice.earliest, choice.latest + choice.steps);
                classes.work.push(Work { from, until, demand: 0, width: 0 });
                classes.pauses.push(choice.request.pauses);
            }
            classes.work[class].width += choice.request.gpu_milli;
            classes.work[class].demand += choice.request.gpu_milli * signed(choice.steps);
            classes.class.push(class);
        }
        classes
    }

    fn spread(&self, hours: &Hours) -> Spread {
        Problem { cost: &hours.cost, capacity: &hours.room, work: &self.work }.spread()
    }

    /// Waits of the requests that may pause: each step's units of a class go to those members with most still to do.
    fn firsts(&self, movable: &[Choice], spread: &Spread, hours: &mut Hours) -> Vec<Hold> {
        let mut members: Vec<Vec<&Choice>> = vec![Vec::new(); self.work.len()];
        for (choice, &class) in movable.iter().zip(&self.class) {
            members[class].push(choice);
        }
        let mut holds = Vec::new();
        for (class, members) in members.iter().enumerate().filter(|&(class, _)| self.pauses[class] == Pauses::AtSteps) {
            let from = self.work[class].from;
            let units = spread.of(class);
            for (step, &units) in (from..).zip(units) {
                hours.take(step, 1, units);
            }
            for (choice, first) in members.iter().zip(share(members, units)) {
                if let Some(step) = first.map(|first| from + first).filter(|&step| step > 0 && step <= choice.latest) {
                    holds.push(Hold { request: choice.request.request, until: hours.begins(step) });
                }
            }
        }
        holds
    }
}

/// The first step each member gets a part of; `None` where the class has too little for it.
fn share(members: &[&Choice], units: &[i64]) -> Vec<Option<usize>> {
    let mut left: Vec<i64> = members.iter().map(|one| one.request.gpu_milli * signed(one.steps)).collect();
    let mut first = vec![None; members.len()];
    let mut order: Vec<usize> = (0..members.len()).collect();
    for (step, &units) in units.iter().enumerate().filter(|&(_, &units)| units > 0) {
        // In steps still to do; members of a class began with the same.
        order.sort_by_key(|&member| (std::cmp::Reverse(left[member] / members[member].request.gpu_milli), member));
        let mut units = units;
        for &member in &order {
            let given = units.min(left[member]).min(members[member].request.gpu_milli);
            if given > 0 {
                first[member] = first[member].or(Some(step));
                left[member] -= given;
                units -= given;
            }
        }
    }
    first.into_iter().zip(left).map(|(first, left)| first.filter(|_| left == 0)).collect()
}
