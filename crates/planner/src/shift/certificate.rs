//! Proof that a plan of `flow` is as good as any: weak duality, checked from the problem, the plan and its prices
//! alone.
//!
//! Whatever prices (zero or more) the hours have, no plan that keeps the capacities can cost less than: each work's
//! cheapest unit-hours at cost plus price, less price × capacity. A plan that costs exactly that is optimal. A missed
//! unit-hour counts as one more than the dearest hour, so what is proved is: as little missed as possible, and that at
//! the least cost. Shares no code with the search.

use super::flow::{Problem, Spread};

/// A plan that was found to be optimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    pub missed: i64,
    /// Of all unit-hours served.
    pub cost: i64,
}

/// What is wrong with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    #[error("the plan is for other work or other hours")]
    Shape,
    #[error("work {work} takes less than nothing or more than its width in hour {hour}")]
    Width { work: usize, hour: usize },
    #[error("what work {work} is given and what it misses is not what it needs")]
    Demand { work: usize },
    #[error("hour {hour} holds {load} of {capacity}")]
    Capacity { hour: usize, load: i64, capacity: i64 },
    #[error("the price of hour {hour} is negative")]
    Price { hour: usize },
    #[error("the plan says it costs {said}, it costs {cost}")]
    Cost { said: i64, cost: i64 },
    #[error("the plan costs {primal} with what it misses, its prices prove no more than {dual}")]
    Gap { primal: i128, dual: i128 },
}

/// Checks that `spread` keeps every rule of `problem` and that its prices prove it optimal.
pub fn check(problem: &Problem, spread: &Spread) -> Result<Proof, Flaw> {
    let (missed, cost) = feasible(problem, spread)?;
    let missed_cost = i128::from(problem.cost.iter().copied().max().unwrap_or(0)) + 1;
    let primal = i128::from(cost) + i128::from(missed) * missed_cost;
    let dual = bound(problem, &spread.price, missed_cost)?;
    if primal == dual { Ok(Proof { missed, cost }) } else { Err(Flaw::Gap { primal, dual }) }
}

/// Missed unit-hours and cost of a plan that keeps every rule.
fn feasible(problem: &Problem, spread: &Spread) -> Result<(i64, i64), Flaw> {
    let hours = problem.cost.len();
    let (works, begins) = (problem.work.len(), spread.begin.len());
    if problem.capacity.len() != hours || spread.missed.len() != works || begins != works + 1 {
        return Err(Flaw::Shape);
    }
    let mut load = vec![0_i64; hours];
    let (mut missed, mut cost) = (0, 0);
    for (number, work) in problem.work.iter().enumerate() {
        let window = work.from.min(hours)..work.until.min(hours).max(work.from.min(hours));
        let (begin, end) = (spread.begin[number], spread.begin[number + 1]);
        let units = spread.units.get(begin..end).filter(|units| units.len() == window.len()).ok_or(Flaw::Shape)?;
        let mut given = spread.missed[number];
        for (hour, &units) in window.zip(units) {
            if units < 0 || units > work.width.max(0) {
                return Err(Flaw::Width { work: number, hour });
            }
            load[hour] += units;
            cost += units * problem.cost[hour];
            given += units;
        }
        if spread.missed[number] < 0 || given != work.demand.max(0) {
            return Err(Flaw::Demand { work: number });
        }
        missed += spread.missed[number];
    }
    for (hour, (&load, &capacity)) in load.iter().zip(problem.capacity).enumerate() {
        if load > capacity {
            return Err(Flaw::Capacity { hour, load, capacity });
        }
    }
    if cost == spread.cost { Ok((missed, cost)) } else { Err(Flaw::Cost { said: spread.cost, cost }) }
}

/// What no plan can cost less than, by these prices.
fn bound(problem: &Problem, price: &[i64], missed_cost: i128) -> Result<i128, Flaw> {
    if price.len() != problem.cost.len() {
        return Err(Flaw::Shape);
    }
    if let Some(hour) = price.iter().position(|&price| price < 0) {
        return Err(Flaw::Price { hour });
    }
    let worth: Vec<i128> =
        problem.cost.iter().zip(price).map(|(&cost, &price)| i128::from(cost) + i128::from(price)).collect();
    let mut bound: i128 = 0;
    let mut cheapest: Vec<i128> = Vec::new();
    for work in problem.work {
        cheapest.clear();
        cheapest.extend(worth.iter().take(work.until).skip(work.from).filter(|&&worth| worth < missed_cost));
        cheapest.sort_unstable();
        let mut unserved = i128::from(work.demand.max(0));
        for &worth in &cheapest {
            let units = unserved.min(i128::from(work.width.max(0)));
            bound += units * worth;
            unserved -= units;
        }
        bound += unserved * missed_cost;
    }
    let rent: i128 =
        price.iter().zip(problem.capacity).map(|(&price, &room)| i128::from(price) * i128::from(room)).sum();
    Ok(bound - rent)
}
