//! Preemption: who gives way to whom, at the least loss.
//!
//! A request that found no room may take the place of leases of its own queue with a lower priority, and of leases of
//! queues that use more than they are guaranteed while its own stays within its guarantee (reclaim). What is lost is
//! work: GPU-seconds since the last checkpoint, and what writing and reading one costs. What is gained is GPU-seconds
//! that the request runs earlier. The set of victims is the cheapest found; beside it stands a lower bound.
//!
//! How: each node's cheapest clearing (`clear`), where a lease that spans several nodes is charged to each in part; the
//! sum of the cheapest nodes bounds each domain from below and orders them; in the best few the victims of the
//! cheapest nodes are taken together, superfluous ones left out again, the dearest first, and what remains is searched
//! exhaustively when it is small (`cover`).
//!
//! INVARIANT: no `Stop::Never` is stopped; a queue gives back what it borrowed and, at most, the rest of the lease that
//! reaches into its guarantee.
//! Deliberately absent: when to ask (ticks and plans do), stopping anything, shrinking elastic gangs: a lease goes
//! whole or not at all. A request without GPUs gains no GPU-seconds, so nobody gives way to it.

use crate::fair::{QuotaBlock, Shares};
use crate::fleet::{Amount, Lease, ModelSpec};
use crate::pack::NodeFree;
use crate::plan::{GpuGrant, PreemptionCause};
use crate::power::{PowerBlock, PowerTree};
use crate::request::{Request, Shape, Stop};
use crate::units::{At, LeaseId, ModelId, NodeId, PowerId, QueueId, TenantClass};

mod clear;
mod cover;

/// Longest time for which a gain is counted: beyond a day, who knows what had ended.
pub const HORIZON_SECONDS: i64 = 24 * 3600;

/// Nodes and what runs on them: those that matter for one decision, or all for moves (`defrag`).
#[derive(Debug, Clone, Default)]
pub struct Ground {
    sites: Vec<Site>,
    runs: Vec<Run>,
    /// By node, all in a row: `held[offsets[node]..offsets[node + 1]]`.
    held: Vec<Hold>,
    offsets: Vec<u32>,
}

/// A node as preemption sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    pub id: NodeId,
    /// GPUs in it.
    pub gpus: u8,
    pub free: NodeFree,
    pub model: ModelId,
    pub power: PowerId,
    /// Kept for another request: nothing of it may be used.
    pub is_kept: bool,
}

/// A lease as preemption sees it.
#[derive(Debug, Clone)]
struct Run {
    id: LeaseId,
    queue: QueueId,
    priority: i16,
    class: TenantClass,
    amount: Amount,
    /// GPU-milliseconds of work lost if it stops now; `None` when it may not be stopped.
    lost: Option<u64>,
    shape: Shape,
    stop: Stop,
    nodes: Vec<u32>,
}

/// What a lease is to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It may be asked to give way, if somebody has the right to.
    Asked,
    /// It only lies there, or is stopping already.
    InTheWay,
}

/// A lease's part of a node.
#[derive(Debug, Clone, Copy)]
struct Hold {
    run: u32,
    gpus: GpuGrant,
}

/// A request that found no room.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub request: &'a Request,
    /// What its queue is charged when it starts with its fewest nodes.
    pub amount: Amount,
    /// By node: the domain it lies in at the level that the request must stay within; one domain for all where it may
    /// lie anywhere. `NO_DOMAIN` is none.
    pub domain_of: &'a [u32],
    /// When it would start if nobody gave way.
    pub otherwise_at: Option<At>,
}

/// A node in no domain of a level.
pub const NO_DOMAIN: u32 = u32::MAX;

/// A node of a lease that is not on the ground: nobody asks for it.
pub const OUTSIDE: u32 = u32::MAX;

/// Who gives way, and what that costs and brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// By lease.
    pub victims: Vec<Victim>,
    /// Nodes for the request once the victims are gone, in order; by place in the ground.
    pub nodes: Vec<u32>,
    /// Rounded up.
    pub lost_gpu_seconds: i64,
    pub gained_gpu_seconds: i64,
    /// Any set of victims loses at least this; rounded down.
    pub bound_gpu_seconds: i64,
}

/// A lease that gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    pub lease: LeaseId,
    pub cause: PreemptionCause,
    /// Rounded up.
    pub lost_gpu_seconds: i64,
}

/// Why nobody gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declined {
    /// No lease may be stopped for this request.
    NoVictims,
    /// Even without all of them there is no room.
    NoRoom,
    /// Room can be made, but its queue may not use it.
    Quota(QuotaBlock),
    /// Room can be made, but there is no power for it.
    Power(PowerBlock),
    /// More would be lost than the gain allows, at least so much, whoever stops.
    Loss { lost_gpu_seconds: i64, gained_gpu_seconds: i64 },
    /// The cheapest set found loses more than the gain allows; that there is none cheaper is not proved.
    FoundLoss { lost_gpu_seconds: i64, gained_gpu_seconds: i64 },
}

impl Ground {
    /// Nodes by their place, and leases in any order with the places of their grants' nodes, or `OUTSIDE`. `amount` is
    /// what a lease's queue is charged for it.
    pub fn new<'a>(
        sites: Vec<Site>,
        leases: impl Iterator<Item = (&'a Lease, Vec<u32>, Role)>,
        amount: impl Fn(&Lease) -> Amount,
        now: At,
    ) -> Self {
        let mut leases: Vec<(&Lease, Vec<u32>, Role)> = leases.collect();
        leases.sort_unstable_by_key(|(lease, ..)| lease.id);
        let mut offsets = vec![0_u32; sites.len() + 1];
        for node in leases.iter().flat_map(|(_, nodes, _)| nodes).filter(|node| **node != OUTSIDE) {
            offsets[*node as usize + 1] += 1;
        }
        for node in 0..sites.len() {
            offsets[node + 1] += offsets[node];
        }
        let mut next = offsets.clone();
        let mut held = vec![Hold { run: 0, gpus: GpuGrant::Whole(0) }; offsets[sites.len()] as usize];
        let mut runs = Vec::with_capacity(leases.len());
        for (run, (lease, nodes, role)) in (0_u32..).zip(leases) {
            for (node, grant) in nodes.iter().zip(&lease.grants).filter(|(node, _)| **node != OUTSIDE) {
                held[next[*node as usize] as usize] = Hold { run, gpus: grant.gpus };
                next[*node as usize] += 1;
            }
            let mut run = Run::new(lease, nodes, amount(lease), now);
            run.lost = run.lost.filter(|_| role == Role::Asked);
            runs.push(run);
        }
        Self { sites, runs, held, offsets }
    }

    /// Nodes, by place.
    pub(crate) fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Runs with a part of a node, and which.
    pub(crate) fn holds(&self, node: u32) -> Vec<(u32, GpuGrant)> {
        self.on_node(node).iter().map(|hold| (hold.run, hold.gpus)).collect()
    }

    /// What a run needs of each node, what stopping it costs, and its nodes.
    pub(crate) fn work(&self, run: u32) -> (&Shape, Stop, usize) {
        let run = &self.runs[run as usize];
        (&run.shape, run.stop, run.nodes.len())
    }

    pub(crate) fn lease(&self, run: u32) -> LeaseId {
        self.runs[run as usize].id
    }

    pub(crate) fn class(&self, run: u32) -> TenantClass {
        self.runs[run as usize].class
    }

    pub(crate) fn gpu_milli(&self, run: u32) -> i64 {
        self.runs[run as usize].amount.gpu_milli
    }

    fn on_node(&self, node: u32) -> &[Hold] {
        let node = node as usize;
        &self.held[self.offsets[node] as usize..self.offsets[node + 1] as usize]
    }
}

impl Run {
    fn new(lease: &Lease, nodes: Vec<u32>, amount: Amount, now: At) -> Self {
        let request = &lease.request;
        Self {
            id: lease.id,
            queue: request.queue,
            priority: request.priority,
            class: request.class,
            amount,
            lost: lost(lease, amount.gpu_milli, now),
            shape: request.shape,
            stop: request.stop,
            nodes: nodes.into_iter().filter(|node| *node != OUTSIDE).collect(),
        }
    }
}

/// GPU-milliseconds that stopping a lease loses: a thousandth of a GPU for a second. At least one, so that of two sets
/// that lose nothing the smaller is preferred.
fn lost(lease: &Lease, gpu_milli: i64, now: At) -> Option<u64> {
    let seconds = match lease.request.stop {
        Stop::Never => return None,
        Stop::Restart => now.since(lease.started_at),
        Stop::Checkpoint { cost_seconds } => {
            now.since(lease.saved_at.max(lease.started_at)).saturating_add(i64::from(cost_seconds))
        }
    };
    Some(seconds.saturating_mul(gpu_milli.max(0)).max(1).unsigned_abs())
}

/// GPU-milliseconds that the request runs earlier if it starts now.
fn gained(asked: &Asked<'_>, now: At) -> u64 {
    let waits = asked.otherwise_at.map_or(HORIZON_SECONDS, |at| at.since(now)).min(HORIZON_SECONDS);
    let seconds = asked.request.run_seconds.map_or(waits, |run| waits.min(i64::from(run)));
    seconds.saturating_mul(asked.amount.gpu_milli.max(0)).unsigned_abs()
}

/// Decides who gives way to a request. `usable` says which nodes it may have at all.
///
/// # Errors
/// Why nobody does.
pub fn decide(
    ground: &Ground,
    asked: &Asked<'_>,
    fleet: Fleet<'_>,
    usable: impl Fn(u32) -> bool,
    now: At,
) -> Result<Decision, Declined> {
    let gained = gained(asked, now);
    let allowed = u128::from(gained) * u128::from(fleet.loss_milli) / 1000;
    let (shares, pending) = (fleet.shares, fleet.pending);
    let causes = causes(ground, asked, shares, pending);
    if causes.iter().all(Option::is_none) {
        return Err(Declined::NoVictims);
    }
    let found = cover::cheapest(
        ground,
        asked,
        fleet,
        Rights { causes: &causes, pending },
        usable,
        u64::try_from(allowed).unwrap_or(u64::MAX),
    )?;
    let (lost_gpu_seconds, gained_gpu_seconds) = (seconds_up(found.lost), seconds_down(gained));
    if u128::from(found.bound) > allowed {
        return Err(Declined::Loss { lost_gpu_seconds: seconds_up(found.bound), gained_gpu_seconds });
    }
    if u128::from(found.lost) > allowed {
        return Err(Declined::FoundLoss { lost_gpu_seconds, gained_gpu_seconds });
    }
    let mut victims: Vec<Victim> = found
        .victims
        .iter()
        .filter_map(|&run| {
            let (run, cause) = (&ground.runs[run as usize], causes[run as usize]?);
            Some(Victim { lease: run.id, cause, lost_gpu_seconds: seconds_up(run.lost?) })
        })
        .collect();
    victims.sort_unstable_by_key(|victim| victim.lease);
    Ok(Decision {
        victims,
        nodes: found.nodes,
        lost_gpu_seconds,
        gained_gpu_seconds,
        bound_gpu_seconds: seconds_down(found.bound),
    })
}

/// What a decision must respect beside room.
#[derive(Debug)]
pub struct Fleet<'a> {
    pub models: &'a [ModelSpec],
    pub shares: &'a Shares,
    /// By queue: what it is charged for beside leases that stay: promises, starts of this pass, and what is stopping
    /// already. Nothing of it can be given back, so a queue borrows only what its leases have beyond its guarantee.
    pub pending: &'a [Amount],
    /// By queue: what leases that stop already give back of its use, less what waits for it.
    pub leaving: &'a [Amount],
    /// Changed only to count on, and left as it was.
    pub power: &'a mut PowerTree,
    /// The policy's `preemption_loss_milli`: lost GPU-seconds allowed for each gained, in thousandths.
    pub loss_milli: u32,
}

/// Which runs may be stopped, and what their queues have beside them.
#[derive(Debug, Clone, Copy)]
struct Rights<'a> {
    /// By run.
    causes: &'a [Option<PreemptionCause>],
    /// By queue.
    pending: &'a [Amount],
}

/// By run: why it may be stopped for the request, or `None`.
fn causes(ground: &Ground, asked: &Asked<'_>, shares: &Shares, pending: &[Amount]) -> Vec<Option<PreemptionCause>> {
    let request = asked.request;
    let mut lenders: Vec<Option<bool>> = vec![None; shares.len()];
    let cause = |run: &Run| {
        run.lost?;
        if run.queue == request.queue {
            return (run.priority < request.priority).then_some(PreemptionCause::Priority);
        }
        let known = &mut lenders[run.queue.0 as usize];
        let lends = *known.get_or_insert_with(|| may_reclaim(shares, request.queue, &asked.amount, run.queue, pending));
        lends.then_some(PreemptionCause::Reclaim)
    };
    ground.runs.iter().map(cause).collect()
}

/// Whether `asker` may take from `holder`: below the queue where they part, the asker's side stays within its guarantee
/// and every queue of the holder's side uses more than its own.
fn may_reclaim(shares: &Shares, asker: QueueId, asked: &Amount, holder: QueueId, pending: &[Amount]) -> bool {
    shares.fork(asker, holder).is_some_and(|(asking, _)| {
        shares.is_guaranteed(asking, asked)
            && lenders(shares, asker, holder).all(|queue| shares.is_borrowing(queue, &pending[queue.0 as usize]))
    })
}

/// The holder's queue and those above it, up to where it parts from the asker's.
pub(crate) fn lenders(shares: &Shares, asker: QueueId, holder: QueueId) -> impl Iterator<Item = QueueId> {
    let top = shares.fork(asker, holder).map(|(_, holding)| holding);
    let mut past_top = top.is_none();
    shares.above(holder).take_while(move |queue| {
        let within = !past_top;
        past_top |= Some(*queue) == top;
        within
    })
}

fn seconds_up(gpu_milliseconds: u64) -> i64 {
    i64::try_from(gpu_milliseconds.div_ceil(1000)).unwrap_or(i64::MAX)
}

fn seconds_down(gpu_milliseconds: u64) -> i64 {
    i64::try_from(gpu_milliseconds / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod yard;
