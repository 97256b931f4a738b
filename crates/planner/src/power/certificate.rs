//! Proves an allocation of watts from the answer alone; shares no code with what made it.
//!
//! Deliberately absent: any search for a better answer. Where a proof fails, the consumer or point it fails at is
//! named.

use super::PowerTree;
use super::allocate::{Allocation, Ask};
use crate::units::{MAX_TENANT_CLASSES, PowerId, TenantClass};

/// What was proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Watts given.
    pub given_watts: i64,
    /// Most watts that any allocation could give: a maximal flow from the root to the consumers, which on a tree is
    /// the lesser of a cap and what can pass below it, summed upwards. Equal to `given_watts`.
    pub optimum_watts: i64,
    /// Points whose caps make up the minimal cut: the dual solution. Consumers not below them have all they ask.
    pub cut: Vec<PowerId>,
}

/// What is wrong with an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("the answer has {answers} consumers, the question {asks}")]
    Length { asks: usize, answers: usize },
    #[error("consumer {consumer} has {watts} W, {kept_watts} W of them kept, and asks for {ask_watts} W")]
    Range { consumer: usize, watts: i64, kept_watts: i64, ask_watts: i64 },
    #[error("{power} carries {watts} W under a cap of {cap_watts} W")]
    OverCap { power: PowerId, watts: i64, cap_watts: i64 },
    #[error("{given_watts} W are given where {optimum_watts} W could be")]
    NotGreatest { given_watts: i64, optimum_watts: i64 },
    #[error("consumer {consumer} lacks watts that nobody of its rank or above holds")]
    Unfair { consumer: usize },
    #[error("{class} keeps {kept_watts} W where least draw and floors allow {allowed_watts} W")]
    Kept { class: TenantClass, kept_watts: i64, allowed_watts: i64 },
    #[error("{class} has {watts} W below {power}, whose floor is {floor_watts} W, and asks for more")]
    FloorShort { power: PowerId, class: TenantClass, watts: i64, floor_watts: i64 },
}

/// Proves that an allocation is within every cap, the greatest there can be, and fair: a consumer that has less than it
/// asks stands below a full point where every other watt that is not kept belongs to a higher priority, or to the same
/// one on a consumer with no more than one watt above its own (watts are whole).
///
/// Also that floors are held: a class has its floor or all it asks below a point, unless each consumer of it that lacks
/// watts stands below a point full of kept watts; and that no more is kept than least draws and floors call for.
///
/// O(consumers · depth + points · priorities).
///
/// # Errors
/// The first thing found wrong.
pub fn check(tree: &PowerTree, points: &[PowerId], asks: &[Ask], answer: &Allocation) -> Result<Proof, Breach> {
    if points.len() != asks.len() || answer.watts.len() != asks.len() || answer.kept_watts.len() != asks.len() {
        return Err(Breach::Length { asks: asks.len(), answers: answer.watts.len().min(answer.kept_watts.len()) });
    }
    for (consumer, ask) in asks.iter().enumerate() {
        let (watts, kept_watts) = (answer.watts[consumer], answer.kept_watts[consumer]);
        if kept_watts < 0 || watts < kept_watts || watts > ask.ask_watts.max(0) {
            return Err(Breach::Range { consumer, watts, kept_watts, ask_watts: ask.ask_watts });
        }
    }
    let loads = Loads::new(tree, points, asks, answer);
    for power in powers(tree) {
        let (watts, cap_watts) = (loads.watts[place(power)], tree.cap(power).max(0));
        if watts > cap_watts {
            return Err(Breach::OverCap { power, watts, cap_watts });
        }
    }
    let proof = greatest(tree, points, asks, answer);
    if proof.given_watts != proof.optimum_watts {
        return Err(Breach::NotGreatest { given_watts: proof.given_watts, optimum_watts: proof.optimum_watts });
    }
    fair(tree, points, asks, answer, &loads)?;
    kept(tree, points, asks, answer)?;
    floors(tree, points, asks, answer, &loads)?;
    Ok(proof)
}

/// Sums below each point.
struct Loads {
    watts: Vec<i64>,
    kept: Vec<i64>,
    class_watts: Vec<[i64; MAX_TENANT_CLASSES]>,
    class_asks: Vec<[i64; MAX_TENANT_CLASSES]>,
}

impl Loads {
    fn new(tree: &PowerTree, points: &[PowerId], asks: &[Ask], answer: &Allocation) -> Self {
        let none = vec![[0; MAX_TENANT_CLASSES]; tree.len()];
        let zeros = vec![0; tree.len()];
        let mut loads = Self { watts: zeros.clone(), kept: zeros, class_watts: none.clone(), class_asks: none };
        for (consumer, ask) in asks.iter().enumerate() {
            let class = usize::from(ask.class.0);
            for power in path(tree, points[consumer]) {
                loads.watts[place(power)] += answer.watts[consumer];
                loads.kept[place(power)] += answer.kept_watts[consumer];
                loads.class_watts[place(power)][class] += answer.watts[consumer];
                loads.class_asks[place(power)][class] += ask.ask_watts.max(0);
            }
        }
        loads
    }
}

/// The maximal flow, the cut that proves it, and what was given.
fn greatest(tree: &PowerTree, points: &[PowerId], asks: &[Ask], answer: &Allocation) -> Proof {
    let mut passing = vec![0; tree.len()];
    let mut optimum_watts = 0;
    for (ask, &power) in asks.iter().zip(points) {
        match passing.get_mut(place(power)) {
            Some(flow) => *flow += ask.ask_watts.max(0),
            None => optimum_watts += ask.ask_watts.max(0),
        }
    }
    let mut upwards: Vec<PowerId> = powers(tree).collect();
    upwards.sort_by_cached_key(|&power| std::cmp::Reverse(path(tree, power).count()));
    let mut full = vec![false; tree.len()];
    for &power in &upwards {
        let cap = tree.cap(power).max(0);
        full[place(power)] = passing[place(power)] > cap;
        let flow = passing[place(power)].min(cap);
        match tree.parent(power) {
            Some(parent) => passing[place(parent)] += flow,
            None => optimum_watts += flow,
        }
    }
    let outermost =
        |power: &PowerId| full[place(*power)] && !path(tree, *power).skip(1).any(|above| full[place(above)]);
    let cut = powers(tree).filter(outermost).collect();
    Proof { given_watts: answer.watts.iter().sum(), optimum_watts, cut }
}

/// Every consumer that lacks watts stands below a full point where nobody could give it one.
fn fair(tree: &PowerTree, points: &[PowerId], asks: &[Ask], answer: &Allocation, loads: &Loads) -> Result<(), Breach> {
    let mut priorities: Vec<i16> = asks.iter().map(|ask| ask.priority).collect();
    priorities.sort_unstable();
    priorities.dedup();
    let ranks: Vec<usize> =
        asks.iter().map(|ask| priorities.partition_point(|&priority| priority < ask.priority)).collect();
    // Most watts of a consumer that has more than it keeps, by point and priority.
    let mut givers = vec![-1; tree.len() * priorities.len()];
    for consumer in 0..asks.len() {
        if answer.watts[consumer] > answer.kept_watts[consumer] {
            for power in path(tree, points[consumer]) {
                let giver = &mut givers[place(power) * priorities.len() + ranks[consumer]];
                *giver = answer.watts[consumer].max(*giver);
            }
        }
    }
    for (consumer, ask) in asks.iter().enumerate() {
        let has = answer.watts[consumer];
        let blocked = |power: PowerId| {
            let here = &givers[place(power) * priorities.len()..][..priorities.len()];
            let rank = ranks[consumer];
            is_full(tree, loads, power) && here[..rank].iter().all(|&most| most < 0) && here[rank] <= has + 1
        };
        if has < ask.ask_watts && !path(tree, points[consumer]).any(blocked) {
            return Err(Breach::Unfair { consumer });
        }
    }
    Ok(())
}

/// No class keeps more than its least draws and floors, each floor counted once on the way up.
fn kept(tree: &PowerTree, points: &[PowerId], asks: &[Ask], answer: &Allocation) -> Result<(), Breach> {
    let mut upwards: Vec<PowerId> = powers(tree).collect();
    upwards.sort_by_cached_key(|&power| std::cmp::Reverse(path(tree, power).count()));
    for class in (0_u8..).take(MAX_TENANT_CLASSES).map(TenantClass) {
        let mut allowed = vec![0; tree.len()];
        let (mut allowed_watts, mut kept_watts) = (0, 0);
        for (consumer, ask) in asks.iter().enumerate().filter(|(_, ask)| ask.class == class) {
            kept_watts += answer.kept_watts[consumer];
            *allowed.get_mut(place(points[consumer])).unwrap_or(&mut allowed_watts) += ask.least_watts.max(0);
        }
        for &power in &upwards {
            let here = allowed[place(power)].max(tree.floor(power, class));
            match tree.parent(power) {
                Some(parent) => allowed[place(parent)] += here,
                None => allowed_watts += here,
            }
        }
        if kept_watts > allowed_watts {
            return Err(Breach::Kept { class, kept_watts, allowed_watts });
        }
    }
    Ok(())
}

/// A class has its floor or all it asks, or stands below points full of kept watts.
fn floors(
    tree: &PowerTree,
    points: &[PowerId],
    asks: &[Ask],
    answer: &Allocation,
    loads: &Loads,
) -> Result<(), Breach> {
    for power in powers(tree) {
        for class in (0_u8..).take(MAX_TENANT_CLASSES).map(TenantClass) {
            let watts = loads.class_watts[place(power)][usize::from(class.0)];
            let asked = loads.class_asks[place(power)][usize::from(class.0)];
            let floor_watts = tree.floor(power, class);
            if watts >= floor_watts.min(asked) {
                continue;
            }
            let could_have_more = |&(consumer, ask): &(usize, &Ask)| {
                let mut above = path(tree, points[consumer]);
                ask.class == class
                    && answer.watts[consumer] < ask.ask_watts
                    && path(tree, points[consumer]).any(|at| at == power)
                    && !above.any(|at| is_full(tree, loads, at) && loads.kept[place(at)] == loads.watts[place(at)])
            };
            if asks.iter().enumerate().any(|each| could_have_more(&each)) {
                return Err(Breach::FloorShort { power, class, watts, floor_watts });
            }
        }
    }
    Ok(())
}

fn is_full(tree: &PowerTree, loads: &Loads, power: PowerId) -> bool {
    loads.watts[place(power)] == tree.cap(power).max(0)
}

fn powers(tree: &PowerTree) -> impl Iterator<Item = PowerId> {
    (0_u32..).take(tree.len()).map(PowerId)
}

/// From a point to its root; empty for a point that the tree does not have.
fn path(tree: &PowerTree, from: PowerId) -> impl Iterator<Item = PowerId> + '_ {
    let first = (place(from) < tree.len()).then_some(from);
    std::iter::successors(first, |&power| tree.parent(power))
}

const fn place(power: PowerId) -> usize {
    power.0 as usize
}

#[cfg(test)]
mod tests;
