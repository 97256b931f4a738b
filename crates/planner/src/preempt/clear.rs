//! One node: the cheapest leases without which a member of a request fits there.
//!
//! Whole GPUs are a small knapsack over what is together on GPUs: exact. What CPU and memory need beyond that is added
//! cheapest first and pruned; the bound leaves it out.

use crate::fleet::ModelSpec;
use crate::pack::{GpuFree, NodeFree};
use crate::plan::GpuGrant;
use crate::preempt::{Ground, Hold};
use crate::request::{Gpus, Shape};
use crate::units::{GPU_MILLI, MAX_GPUS, ModelId};

/// A price that nobody pays: the lease stays.
pub(super) const NEVER: u64 = u64::MAX;

/// What clearing a node costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clearing {
    /// Sum of the prices of the victims, which stand at the end of the list given.
    pub(super) price: u64,
    /// No set of victims on this node has a lower price.
    pub(super) bound: u64,
}

/// What one member of a request needs of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) models: &'a [ModelSpec],
}

impl Member<'_> {
    /// Whether it fits into what is free.
    pub(super) fn fits(&self, free: &NodeFree, model: ModelId) -> bool {
        free.cpu_milli >= self.shape.cpu_milli
            && free.memory_mib >= self.shape.memory_mib
            && match self.shape.gpus {
                Gpus::Whole(0) => true,
                Gpus::Whole(count) => free.gpus.iter().filter(|gpu| gpu.is_whole()).count() >= usize::from(count),
                Gpus::Milli(milli) => free.gpus.iter().any(|gpu| gpu.free_milli() >= milli),
                Gpus::Slice(_) => free.gpus.iter().any(|gpu| self.position(gpu, model).is_some()),
            }
    }

    /// A position free for its slice.
    fn position(&self, gpu: &GpuFree, model: ModelId) -> Option<u8> {
        self.positions(model).iter().copied().find(|slots| slots & !gpu.free_slots() == 0)
    }

    fn positions(&self, model: ModelId) -> &[u8] {
        let Gpus::Slice(slice) = self.shape.gpus else { return &[] };
        let slices = self.models.get(usize::from(model.0)).map_or(&[][..], |model| &model.slices);
        slices.get(usize::from(slice.0)).map_or(&[], |slice| &slice.positions)
    }
}

/// Puts the victims that clear `node` at the end of `victims`; `None` when it cannot be cleared at any price. `price`
/// is by run.
pub(super) fn clear(
    ground: &Ground,
    node: u32,
    member: &Member<'_>,
    price: &[u64],
    victims: &mut Vec<u32>,
) -> Option<Clearing> {
    let site = &ground.sites[node as usize];
    if member.fits(&site.free, site.model) {
        return Some(Clearing { price: 0, bound: 0 });
    }
    let holds = ground.on_node(node);
    let begin = victims.len();
    let mut bound = match member.shape.gpus {
        Gpus::Whole(count) => clear_whole(&site.free, holds, count, price, victims)?,
        Gpus::Milli(_) | Gpus::Slice(_) => clear_part(&site.free, holds, member, site.model, price, victims)?,
    };
    let fits = |chosen: &[u32]| member.fits(&freed(ground, node, chosen), site.model);
    if !fits(&victims[begin..]) {
        let mut others: Vec<(u64, u32)> = holds
            .iter()
            .map(|hold| (price[hold.run as usize], hold.run))
            .filter(|(price, run)| *price != NEVER && !victims[begin..].contains(run))
            .collect();
        others.sort_unstable();
        bound = bound.max(others.first().map_or(0, |(price, _)| if begin == victims.len() { *price } else { 0 }));
        for (_, run) in others {
            victims.push(run);
            if fits(&victims[begin..]) {
                break;
            }
        }
        if !fits(&victims[begin..]) {
            victims.truncate(begin);
            return None;
        }
        prune(victims, begin, price, fits);
    }
    let price = victims[begin..].iter().fold(0, |sum: u64, run| sum.saturating_add(price[*run as usize]));
    Some(Clearing { price, bound })
}

/// What is free on a node without these runs.
pub(super) fn freed(ground: &Ground, node: u32, gone: &[u32]) -> NodeFree {
    let mut free = ground.sites[node as usize].free;
    for hold in ground.on_node(node) {
        if gone.contains(&hold.run) {
            let run = &ground.runs[hold.run as usize];
            free.give(hold.gpus, run.shape.cpu_milli, run.shape.memory_mib);
        }
    }
    free
}

/// Leaves out again what is not needed, the dearest first.
fn prune(victims: &mut Vec<u32>, begin: usize, price: &[u64], fits: impl Fn(&[u32]) -> bool) {
    victims[begin..].sort_unstable_by_key(|run| (std::cmp::Reverse(price[*run as usize]), *run));
    let mut at = begin;
    while at < victims.len() {
        let run = victims.remove(at);
        if !fits(&victims[begin..]) {
            victims.insert(at, run);
            at += 1;
        }
    }
}

/// Runs that share GPUs with nobody else: they go together or not at all.
#[derive(Debug, Clone, Copy, Default)]
struct Item {
    gpus: usize,
    price: u64,
    mask: u16,
}

/// The cheapest runs whose GPUs, with the whole ones free, are `count`: exact. Returns their price.
fn clear_whole(free: &NodeFree, holds: &[Hold], count: u8, price: &[u64], victims: &mut Vec<u32>) -> Option<u64> {
    let whole = free.gpus.iter().filter(|gpu| gpu.is_whole()).count();
    let Some(needed) = usize::from(count).checked_sub(whole).filter(|needed| *needed > 0) else { return Some(0) };
    let mut shared = [None::<u64>; MAX_GPUS];
    let mut items = [Item::default(); MAX_GPUS];
    let mut len = 0;
    for hold in holds {
        let price = price[hold.run as usize];
        match hold.gpus {
            GpuGrant::Whole(0) => {}
            GpuGrant::Whole(mask) if price != NEVER && len < MAX_GPUS => {
                items[len] = Item { gpus: mask.count_ones() as usize, price, mask };
                len += 1;
            }
            GpuGrant::Whole(_) => {}
            GpuGrant::Milli { gpu, .. } | GpuGrant::Slice { gpu, .. } => {
                let sum = &mut shared[usize::from(gpu)];
                *sum = Some(sum.unwrap_or(0).saturating_add(price));
            }
        }
    }
    for (gpu, price) in shared.into_iter().enumerate() {
        if let Some(price) = price
            && price != NEVER
            && len < MAX_GPUS
        {
            items[len] = Item { gpus: 1, price, mask: 1 << gpu };
            len += 1;
        }
    }
    let (price, mask) = knapsack(&items[..len], needed)?;
    let chosen = |hold: &&Hold| match hold.gpus {
        GpuGrant::Whole(gpus) => gpus & mask != 0,
        GpuGrant::Milli { gpu, .. } | GpuGrant::Slice { gpu, .. } => mask >> gpu & 1 == 1,
    };
    victims.extend(holds.iter().filter(chosen).map(|hold| hold.run));
    Some(price)
}

/// The cheapest items with at least `needed` GPUs, and all their GPUs.
fn knapsack(items: &[Item], needed: usize) -> Option<(u64, u16)> {
    // best[n]: the cheapest way to at least n.
    let mut best: [(u64, u16); MAX_GPUS + 1] = [(NEVER, 0); MAX_GPUS + 1];
    best[0] = (0, 0);
    for item in items {
        for have in (1..=needed).rev() {
            let (before, mask) = best[have.saturating_sub(item.gpus)];
            let with = before.saturating_add(item.price);
            if with < best[have].0 {
                best[have] = (with, mask | item.mask);
            }
        }
    }
    (best[needed].0 != NEVER).then_some(best[needed])
}

/// The GPU that is cheapest to free for a part of it. Returns a lower bound of its price.
fn clear_part(
    free: &NodeFree,
    holds: &[Hold],
    member: &Member<'_>,
    model: ModelId,
    price: &[u64],
    victims: &mut Vec<u32>,
) -> Option<u64> {
    let mut best: Option<(u64, Vec<u32>)> = None;
    let mut bound = NEVER;
    for (gpu, left) in (0_u8..).zip(&free.gpus) {
        let on_gpu = |hold: &&Hold| match hold.gpus {
            GpuGrant::Whole(mask) => mask >> gpu & 1 == 1,
            GpuGrant::Milli { gpu: at, .. } | GpuGrant::Slice { gpu: at, .. } => at == gpu,
        };
        let here: Vec<&Hold> = holds.iter().filter(on_gpu).collect();
        let options = match member.shape.gpus {
            Gpus::Milli(milli) => vec![thousandths(*left, &here, milli, price)],
            Gpus::Slice(_) => member.positions(model).iter().map(|slots| slot(*left, &here, *slots, price)).collect(),
            Gpus::Whole(_) => Vec::new(),
        };
        for (least, runs) in options.into_iter().flatten() {
            bound = bound.min(least);
            let sum = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(price[*run as usize]));
            if best.as_ref().is_none_or(|(best, _)| sum < *best) {
                best = Some((sum, runs));
            }
        }
    }
    let (_, runs) = best?;
    victims.extend(runs);
    Some(bound)
}

/// Runs to stop so that `milli` thousandths of a GPU are free: by price for each thousandth, then pruned; and the bound
/// that cutting the last one would give.
fn thousandths(left: GpuFree, here: &[&Hold], milli: u16, price: &[u64]) -> Option<(u64, Vec<u32>)> {
    let mut free = left.free_milli();
    if free >= milli {
        return Some((0, Vec::new()));
    }
    if here.iter().any(|hold| !matches!(hold.gpus, GpuGrant::Milli { .. })) {
        return all_of(left, here, price);
    }
    let size = |hold: &Hold| match hold.gpus {
        GpuGrant::Milli { milli, .. } => milli,
        GpuGrant::Whole(_) | GpuGrant::Slice { .. } => GPU_MILLI,
    };
    let mut by_price: Vec<&&Hold> = here.iter().filter(|hold| price[hold.run as usize] != NEVER).collect();
    by_price.sort_by(|a, b| {
        let (left, right) = (u128::from(price[a.run as usize]), u128::from(price[b.run as usize]));
        (left * u128::from(size(b))).cmp(&(right * u128::from(size(a)))).then(a.run.cmp(&b.run))
    });
    let (mut runs, mut bound) = (Vec::new(), 0_u64);
    for hold in by_price {
        if free >= milli {
            break;
        }
        let part = u64::from(size(hold).min(milli - free));
        let cut = u128::from(price[hold.run as usize]) * u128::from(part) / u128::from(size(hold).max(1));
        bound = bound.saturating_add(u64::try_from(cut).unwrap_or(NEVER));
        free += size(hold);
        runs.push((price[hold.run as usize], hold.run, size(hold)));
    }
    if free < milli {
        return None;
    }
    runs.sort_unstable();
    for at in (0..runs.len()).rev() {
        if free - runs[at].2 >= milli {
            free -= runs.remove(at).2;
        }
    }
    Some((bound, runs.into_iter().map(|(_, run, _)| run).collect()))
}

/// Runs to stop so that these memory slots of a GPU are free.
fn slot(left: GpuFree, here: &[&Hold], slots: u8, price: &[u64]) -> Option<(u64, Vec<u32>)> {
    let missing = slots & !left.free_slots();
    if missing == 0 {
        return Some((0, Vec::new()));
    }
    if here.iter().any(|hold| !matches!(hold.gpus, GpuGrant::Slice { .. })) {
        return all_of(left, here, price);
    }
    let overlaps = |hold: &&&Hold| matches!(hold.gpus, GpuGrant::Slice { slots: taken, .. } if taken & missing != 0);
    sum(here.iter().filter(overlaps).map(|hold| hold.run), price)
}

/// The whole GPU.
fn all_of(left: GpuFree, here: &[&Hold], price: &[u64]) -> Option<(u64, Vec<u32>)> {
    // Nobody holds it and still it is not free: it is not there, or another took it in this pass.
    if here.is_empty() && !left.is_whole() {
        return None;
    }
    sum(here.iter().map(|hold| hold.run), price)
}

fn sum(runs: impl Iterator<Item = u32>, price: &[u64]) -> Option<(u64, Vec<u32>)> {
    let runs: Vec<u32> = runs.collect();
    let total = runs.iter().fold(0_u64, |sum, run| sum.saturating_add(price[*run as usize]));
    (total != NEVER && !runs.is_empty()).then_some((total, runs))
}
