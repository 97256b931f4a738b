//! What one gateway knows of its replicas, and the choice among them.
//!
//! INVARIANT: in flight = seats not released, and prompt tokens ahead = those of seats that have not had their first token.
//! A [`Seat`] cannot be cloned and `release` consumes it; work counts from the moment of the choice.
//! INVARIANT: a choice looks at [`SAMPLE`] replicas at most, however many there are.

use std::collections::{BTreeMap, BTreeSet};

use galerne_model::ids::{EndpointId, ReplicaId};
use galerne_model::snapshot::ReplicaEntry;
use jiff::{SignedDuration, Timestamp};

use super::Ending;
use super::breaker::{self, Breaker, BreakerState};
use super::cost::{self, Cost, Load, Terms, Weighed};
use super::index::{Matches, PrefixIndex, Slot};
use super::prompt::{self, Prompt};
use super::rates::{Pace, Rates, Sample};
use super::siphash::Secret;
use super::slots::Slots;
use super::told::{KvEvent, Told};

/// Replicas compared for one request: with more, those that have its prefix and others by chance.
pub const SAMPLE: usize = 8;
/// Of the sample, those that have most of the prompt.
const SAMPLE_BY_PREFIX: usize = 4;
/// A prediction that was not used for this long is forgotten: engines under load have given the blocks to others.
const PREFIX_TTL_SECONDS: u32 = 600;
/// A report older than this says nothing about now.
const REPORT_FRESH: SignedDuration = SignedDuration::from_secs(10);

/// A place in the queue of a replica. Ends by [`ReplicaBook::release`].
#[derive(Debug)]
#[must_use = "a seat that is dropped counts as a request in flight for ever: release it"]
pub struct Seat {
    replica_id: ReplicaId,
    endpoint_id: EndpointId,
    prompt_bytes: u64,
    /// Prompt tokens to compute, until the first token is there.
    uncached: u64,
    predicted: u64,
    ahead: u64,
    crowd: u64,
    tries: bool,
    began_at: Timestamp,
    first_at: Option<Timestamp>,
}

/// A replica as one gateway sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplicaSeen {
    /// The replica.
    pub replica_id: ReplicaId,
    /// Its endpoint.
    pub endpoint_id: EndpointId,
    /// Whether it gets requests.
    pub breaker: BreakerState,
    /// How often its breaker has opened.
    pub opened: u64,
    /// Requests of this gateway in flight there.
    pub in_flight: u32,
    /// Requests of others, by its last report.
    pub others: u32,
    /// Requests that wait there, by its last report.
    pub waiting: u32,
    /// Thousandths of its KV cache in use, by its last report.
    pub kv_thousandths: Option<u32>,
}

/// What a request is, to the choice.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The endpoint whose replicas are asked.
    pub endpoint_id: EndpointId,
    /// Its prompt.
    pub prompt: &'a Prompt,
}

/// Tokens of an answer, as the engine counted them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Of the prompt, cached ones included.
    pub prompt: u64,
    /// Of the prompt, not computed again.
    pub cached: u64,
    /// Of the answer.
    pub completion: u64,
}

/// What a replica reports of itself when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Sequences computed now.
    pub running: u32,
    /// Requests that wait there.
    pub waiting: u32,
    /// Thousandths of its KV cache in use.
    pub kv_thousandths: Option<u32>,
    /// Tokens decoded since it started.
    pub decoded: Option<u64>,
}

/// See the file's header.
#[derive(Debug)]
pub struct ReplicaBook {
    secret: Secret,
    index: PrefixIndex,
    slots: Slots,
    replicas: BTreeMap<ReplicaId, Replica>,
    rates: BTreeMap<EndpointId, Rates>,
    round: u64,
}

#[derive(Debug)]
struct Replica {
    endpoint_id: EndpointId,
    slot: Slot,
    told: Option<Told>,
    in_flight: u32,
    prompt_tokens: u64,
    reported: Option<Reported>,
    pace: Pace,
    breaker: Breaker,
    joined_at: Timestamp,
    chosen_in_round: u64,
}

#[derive(Debug, Clone, Copy)]
struct Reported {
    at: Timestamp,
    report: Report,
    /// Of `running` and `waiting`, those this gateway did not send.
    others: u32,
}

impl Seat {
    /// The replica that was chosen.
    pub fn replica(&self) -> ReplicaId {
        self.replica_id
    }

    /// Prompt tokens it was predicted to have.
    pub fn predicted(&self) -> u64 {
        self.predicted
    }
}

impl ReplicaBook {
    /// Knows of no replica; its prefix index takes at most `index_bytes_max`.
    pub fn new(secret: Secret, index_bytes_max: usize) -> Self {
        Self {
            secret,
            index: PrefixIndex::new(index_bytes_max, PREFIX_TTL_SECONDS),
            slots: Slots::default(),
            replicas: BTreeMap::new(),
            rates: BTreeMap::new(),
            round: 0,
        }
    }

    /// The key under which prompts for this book are hashed.
    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Bytes of the prefix index.
    pub fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Chooses among `ready`, which is sorted by id; `avoid` are the replicas whose attempts have failed, `chance` any
    /// number, another each time.
    pub fn choose(
        &mut self,
        wanted: &Wanted<'_>,
        ready: &[ReplicaEntry],
        avoid: &[ReplicaId],
        chance: u64,
        now: Timestamp,
    ) -> Option<Seat> {
        let (weighed, chosen) = self.weigh(wanted, ready, Compared::Sample, avoid, chance, now);
        let Weighed { replica_id, load, prompt_tokens, cached_tokens, .. } = weighed[chosen?];
        self.round += 1;
        let replica = self.replicas.get_mut(&replica_id)?;
        let uncached = prompt_tokens.saturating_sub(cached_tokens);
        replica.in_flight += 1;
        replica.prompt_tokens += uncached;
        replica.chosen_in_round = self.round;
        let tries = replica.breaker.enter(now);
        // What an engine tells itself needs no prediction; that the blocks were used is noted all the same.
        let slot = if replica.told.is_some() { None } else { Some(replica.slot) };
        self.index.record(&wanted.prompt.blocks, slot, second(now));
        Some(Seat {
            replica_id,
            endpoint_id: wanted.endpoint_id,
            prompt_bytes: wanted.prompt.bytes,
            uncached,
            predicted: cached_tokens,
            ahead: load.prompt_tokens.saturating_add(uncached),
            crowd: u64::from(load.in_flight) + u64::from(load.others) + 1,
            tries,
            began_at: now,
            first_at: None,
        })
    }

    /// Every replica as the choice would see it, and the position of the one it would take.
    pub fn explain(
        &mut self,
        wanted: &Wanted<'_>,
        ready: &[ReplicaEntry],
        chance: u64,
        now: Timestamp,
    ) -> (Vec<Weighed>, Option<usize>) {
        self.weigh(wanted, ready, Compared::All, &[], chance, now)
    }

    /// The first token of an answer came: its prompt is computed.
    pub fn first_token(&mut self, seat: &mut Seat, now: Timestamp) {
        if seat.first_at.is_none() {
            seat.first_at = Some(now);
            let uncached = std::mem::take(&mut seat.uncached);
            if let Some(replica) = self.replicas.get_mut(&seat.replica_id) {
                replica.prompt_tokens = replica.prompt_tokens.saturating_sub(uncached);
                // Whoever answers is back: others need not wait for the end of a long answer.
                if seat.tries && replica.breaker.answers() {
                    replica.joined_at = now;
                }
            }
        }
    }

    /// Gives a seat back and learns from how the attempt ended; `counts` where the engine counted.
    #[expect(clippy::needless_pass_by_value, reason = "consuming the seat is what forbids releasing it twice")]
    pub fn release(&mut self, seat: Seat, ending: Ending, counts: Option<Counts>, now: Timestamp) {
        let Some(replica) = self.replicas.get_mut(&seat.replica_id) else { return };
        let crowd = (seat.crowd + u64::from(replica.in_flight)).div_ceil(2);
        replica.in_flight = replica.in_flight.saturating_sub(1);
        replica.prompt_tokens = replica.prompt_tokens.saturating_sub(seat.uncached);
        if replica.breaker.leave(ending, seat.tries, now) {
            replica.joined_at = now;
        }
        let Some(counts) = counts.filter(|_| ending == Ending::Answered) else { return };
        let micros = |until: Timestamp| u64::try_from(until.duration_since(seat.began_at).as_micros()).unwrap_or(0);
        let sample = Sample {
            prompt_bytes: seat.prompt_bytes,
            prompt: counts.prompt,
            cached: counts.cached,
            completion: counts.completion,
            predicted: seat.predicted,
            ahead: seat.ahead,
            crowd,
            first_micros: seat.first_at.map(micros),
            micros: micros(now),
        };
        if let Some(pace) = self.rates.entry(seat.endpoint_id).or_default().learn(&sample) {
            replica.pace.add(pace);
        }
    }

    /// A replica answered what it is doing.
    pub fn report(&mut self, replica_id: ReplicaId, report: Report, now: Timestamp) {
        let Some(replica) = self.replicas.get_mut(&replica_id) else { return };
        if let Some(before) = replica.reported
            && let (Some(then), Some(decoded)) = (before.report.decoded, report.decoded)
        {
            let micros = u64::try_from(now.duration_since(before.at).as_micros()).unwrap_or(0);
            // A counter that fell back is that of another process.
            if let Some(tokens) = decoded.checked_sub(then).filter(|_| micros > 0) {
                let crowd = u64::from(before.report.running.midpoint(report.running));
                self.rates.entry(replica.endpoint_id).or_default().counted(tokens, crowd, micros);
            }
        }
        let others = report.running.saturating_add(report.waiting).saturating_sub(replica.in_flight);
        replica.reported = Some(Reported { at: now, report, others });
    }

    /// Looks at all ready replicas of an endpoint: new ones are noted, those that fall far behind the others are set aside.
    /// Who was, and until when.
    pub fn judge(
        &mut self,
        endpoint_id: EndpointId,
        ready: &[ReplicaEntry],
        now: Timestamp,
    ) -> Vec<(ReplicaId, Timestamp)> {
        for entry in ready {
            self.meet(endpoint_id, entry.id, now);
        }
        let known: Vec<(ReplicaId, &Replica)> =
            ready.iter().filter_map(|entry| Some((entry.id, self.replicas.get(&entry.id)?))).collect();
        let shown: Vec<_> = known
            .iter()
            .map(|(_, replica)| replica.breaker.showing(replica.pace.thousandths(), replica.pace.samples(), now))
            .collect();
        let ids: Vec<ReplicaId> = breaker::outliers(&shown).into_iter().map(|at| known[at].0).collect();
        let mut aside = Vec::new();
        for id in ids {
            if let Some(replica) = self.replicas.get_mut(&id) {
                let until = replica.breaker.set_aside(now);
                replica.pace = Pace::default();
                // When it comes back it is as good as new.
                replica.joined_at = until;
                aside.push((id, until));
            }
        }
        aside
    }

    /// Requests in flight on a replica.
    pub fn in_flight(&self, replica_id: ReplicaId) -> u32 {
        self.replicas.get(&replica_id).map_or(0, |replica| replica.in_flight)
    }

    /// Prompt tokens that a replica has still to compute for this gateway.
    pub fn prompt_tokens(&self, replica_id: ReplicaId) -> u64 {
        self.replicas.get(&replica_id).map_or(0, |replica| replica.prompt_tokens)
    }

    /// Every replica that is known, for the operator.
    pub fn seen(&self, now: Timestamp) -> Vec<ReplicaSeen> {
        let seen = self.replicas.iter().map(|(id, replica)| {
            let fresh = replica.fresh(now);
            let others = fresh.map_or(0, |reported| reported.others);
            ReplicaSeen {
                replica_id: *id,
                endpoint_id: replica.endpoint_id,
                breaker: replica.breaker.state(now),
                opened: replica.breaker.opened,
                in_flight: replica.in_flight,
                others,
                waiting: fresh.map_or(0, |reported| reported.report.waiting),
                kv_thousandths: fresh.and_then(|reported| reported.report.kv_thousandths),
            }
        });
        seen.collect()
    }

    /// Forgets replicas and endpoints that are gone and have nothing in flight.
    pub fn keep_only(&mut self, replicas: &BTreeSet<ReplicaId>, endpoints: &BTreeSet<EndpointId>) {
        let slots = &mut self.slots;
        self.replicas.retain(|id, replica| {
            let stays = replicas.contains(id) || replica.in_flight > 0;
            if !stays {
                slots.take_back(replica.slot);
                replica.told.iter().for_each(|told| slots.take_back(told.slot));
            }
            stays
        });
        self.rates.retain(|id, _| endpoints.contains(id));
    }

    /// The process behind a replica is another one: its caches are empty and its past says nothing.
    pub fn restarted(&mut self, replica_id: ReplicaId, now: Timestamp) {
        if let Some(replica) = self.replicas.get_mut(&replica_id) {
            self.slots.take_back(replica.slot);
            replica.slot = self.slots.give(replica_id);
            replica.joined_at = now;
            let breaker = replica.breaker.anew();
            (replica.breaker, replica.pace, replica.reported) = (breaker, Pace::default(), None);
        }
        self.untold(replica_id);
    }

    /// An engine told of a change in its KV cache. From its first word on it is believed instead of predictions.
    pub fn told(&mut self, endpoint_id: EndpointId, replica_id: ReplicaId, event: &KvEvent, now: Timestamp) {
        self.meet(endpoint_id, replica_id, now);
        let secret = self.secret;
        let Some(replica) = self.replicas.get_mut(&replica_id) else { return };
        let is_full = replica.told.as_ref().is_some_and(Told::is_full);
        if *event == KvEvent::Cleared || is_full {
            // Another number, and nobody has what the old one had.
            replica.told.take().iter().for_each(|told| self.slots.take_back(told.slot));
        }
        let told = replica.told.get_or_insert_with(|| Told::new(self.slots.give(replica_id)));
        match event {
            KvEvent::Cleared => {}
            KvEvent::Removed { hashes } => {
                for hash in hashes {
                    if let Some(block) = told.remove(*hash) {
                        self.index.remove(block, told.slot);
                    }
                }
            }
            KvEvent::Stored { hashes, parent, tokens, block_tokens } => {
                told.block_tokens = *block_tokens;
                // Blocks whose beginning was never heard of cannot be told from others: they are left out.
                let mut before = match parent {
                    None => None,
                    Some(parent) => match told.get(*parent) {
                        Some(block) => Some(block),
                        None => return,
                    },
                };
                let size = usize::try_from(*block_tokens).unwrap_or(0).max(1);
                for (hash, tokens) in hashes.iter().zip(tokens.chunks_exact(size)) {
                    let block = prompt::tokens(secret, endpoint_id, before, tokens);
                    told.insert(*hash, block);
                    self.index.record(&[block], Some(told.slot), second(now));
                    before = Some(block);
                }
            }
        }
    }

    /// An engine's words can no longer be heard: predictions count for it again.
    pub fn untold(&mut self, replica_id: ReplicaId) {
        if let Some(told) = self.replicas.get_mut(&replica_id).and_then(|replica| replica.told.take()) {
            self.slots.take_back(told.slot);
        }
    }

    /// Tokens in a block of a replica that tells of its cache, where the tokens of this prompt are not known yet.
    pub fn wants_tokens(&self, replica_id: ReplicaId, prompt: &Prompt, now: Timestamp) -> Option<u32> {
        let told = self.replicas.get(&replica_id)?.told.as_ref()?;
        let last = *prompt.blocks.last()?;
        (told.block_tokens > 0 && !self.index.is_anchored(last, second(now))).then_some(told.block_tokens)
    }

    /// The tokens of a prompt, as the engine makes them of its text: joins blocks of text with blocks of tokens. Where
    /// within the tokens a block of text ends is taken from its share of the whole.
    pub fn learn_tokens(
        &mut self,
        endpoint_id: EndpointId,
        prompt: &Prompt,
        tokens: &[u32],
        block_tokens: u32,
        now: Timestamp,
    ) {
        let size = usize::try_from(block_tokens).unwrap_or(0).max(1);
        let bytes = usize::try_from(prompt.bytes).unwrap_or(usize::MAX).max(1);
        let mut before = None;
        let mut ends = Vec::with_capacity(tokens.len() / size);
        for part in tokens.chunks_exact(size) {
            let block = prompt::tokens(self.secret, endpoint_id, before, part);
            ends.push(block);
            before = Some(block);
        }
        for (text, block) in (1..).zip(&prompt.blocks) {
            let token = (text * prompt::BLOCK_BYTES).saturating_mul(tokens.len()) / bytes;
            let whole = (token / size).min(ends.len());
            if let Some(end) = whole.checked_sub(1).and_then(|at| ends.get(at)) {
                self.index.anchor(*block, *end, second(now));
            }
        }
    }

    fn meet(&mut self, endpoint_id: EndpointId, replica_id: ReplicaId, now: Timestamp) {
        let slots = &mut self.slots;
        self.replicas.entry(replica_id).or_insert_with(|| Replica {
            endpoint_id,
            slot: slots.give(replica_id),
            told: None,
            in_flight: 0,
            prompt_tokens: 0,
            reported: None,
            pace: Pace::default(),
            breaker: Breaker::default(),
            joined_at: now,
            chosen_in_round: 0,
        });
    }

    fn weigh(
        &mut self,
        wanted: &Wanted<'_>,
        ready: &[ReplicaEntry],
        compared: Compared,
        avoid: &[ReplicaId],
        chance: u64,
        now: Timestamp,
    ) -> (Vec<Weighed>, Option<usize>) {
        let depths = self.depths(&self.index.matches(&wanted.prompt.blocks, second(now)));
        let sample = sample(ready, &depths, chance);
        let listed: Vec<ReplicaId> = match compared {
            Compared::Sample => sample.clone(),
            Compared::All => ready.iter().map(|entry| entry.id).collect(),
        };
        let rates = self.rates.get(&wanted.endpoint_id).cloned().unwrap_or_default();
        let mut weighed = Vec::with_capacity(listed.len());
        for id in listed {
            self.meet(wanted.endpoint_id, id, now);
            let Some(replica) = self.replicas.get(&id) else { continue };
            let blocks = depths.iter().find(|(known, _)| *known == id).map_or(0, |(_, blocks)| *blocks);
            let mut one = replica.weigh(id, wanted.prompt, blocks, &rates, now);
            one.compared = sample.contains(&id);
            one.avoided = avoid.contains(&id);
            weighed.push(one);
        }
        let chosen = cost::pick(&weighed);
        (weighed, chosen)
    }

    /// Replicas with the number of the prompt's blocks that they have, the most first.
    fn depths(&self, matches: &Matches) -> Vec<(ReplicaId, u32)> {
        let mut depths: Vec<(ReplicaId, u32)> = Vec::new();
        for found in matches.iter() {
            let Some(id) = self.slots.owner(found.slot) else { continue };
            // Of a replica that speaks for itself, only its own words count.
            let told = self.replicas.get(&id).and_then(|replica| replica.told.as_ref());
            if told.is_none_or(|told| told.slot == found.slot) {
                depths.push((id, found.blocks));
            }
        }
        depths.sort_unstable_by_key(|(id, blocks)| (std::cmp::Reverse(*blocks), *id));
        depths
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Sample,
    All,
}

impl Replica {
    fn weigh(&self, replica_id: ReplicaId, prompt: &Prompt, blocks: u32, rates: &Rates, now: Timestamp) -> Weighed {
        let prompt_tokens = rates.tokens(prompt.bytes);
        let had = u64::from(blocks) * u64::try_from(prompt::BLOCK_BYTES).unwrap_or(0);
        let predicted = prompt_tokens.saturating_mul(had.min(prompt.bytes)) / prompt.bytes.max(1);
        let cached_tokens = if self.told.is_some() { predicted } else { rates.believed(predicted) };
        let load = self.load(rates, now);
        let terms = Terms {
            prefill_per_second: rates.prefill(),
            decode_micros: rates.decode_micros(u64::from(load.in_flight) + u64::from(load.others)),
            uncached_tokens: prompt_tokens.saturating_sub(cached_tokens),
            pace: self.pace.thousandths(),
            ramp: cost::ramp(self.joined_at, now),
        };
        Weighed {
            replica_id,
            compared: true,
            state: self.breaker.state(now),
            until: self.breaker.until(now),
            load,
            prompt_tokens,
            cached_tokens,
            cached_blocks: blocks,
            cost: Cost::of(&load, &terms),
            avoided: false,
            chosen_in_round: self.chosen_in_round,
        }
    }

    /// Its last report, if that still says something about now.
    fn fresh(&self, now: Timestamp) -> Option<Reported> {
        self.reported.filter(|reported| now.duration_since(reported.at) <= REPORT_FRESH)
    }

    /// Own work is counted as it is sent; that of others is the replica's last report less what was ours in it.
    fn load(&self, rates: &Rates, now: Timestamp) -> Load {
        let fresh = self.fresh(now);
        let others = fresh.map_or(0, |reported| reported.others);
        let waiting = fresh.map_or(0, |reported| reported.report.waiting.min(others));
        Load {
            in_flight: self.in_flight,
            others,
            prompt_tokens: self.prompt_tokens.saturating_add(u64::from(waiting).saturating_mul(rates.prompt())),
            kv_thousandths: fresh.and_then(|reported| reported.report.kv_thousandths),
        }
    }
}

/// All when they are few; else those that have most of the prompt, and others by chance.
fn sample(ready: &[ReplicaEntry], depths: &[(ReplicaId, u32)], chance: u64) -> Vec<ReplicaId> {
    if ready.len() <= SAMPLE {
        return ready.iter().map(|entry| entry.id).collect();
    }
    let is_ready = |id: &ReplicaId| ready.binary_search_by_key(id, |entry| entry.id).is_ok();
    let mut sample: Vec<ReplicaId> = depths.iter().map(|(id, _)| *id).filter(is_ready).take(SAMPLE_BY_PREFIX).collect();
    let count = u64::try_from(ready.len()).unwrap_or(u64::MAX);
    let mut state = chance;
    // One that is drawn twice counts once: the sample is then smaller, not the work larger.
    for _ in 0..2 * SAMPLE {
        if sample.len() == SAMPLE {
            break;
        }
        state = next(state);
        let id = ready[usize::try_from(state % count).unwrap_or(0)].id;
        if !sample.contains(&id) {
            sample.push(id);
        }
    }
    sample
}

/// The next number after `state`, spread over all numbers: splitmix64.
pub fn next(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn second(now: Timestamp) -> u32 {
    u32::try_from(now.as_second()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
