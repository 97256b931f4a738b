//! The energy account of one metered replica: slices of its energy shared among the requests that worked in them.
//!
//! In a slice the requests that were at work share the energy of the time in which any of them was, by their work: tokens
//! of the prompt and generated ones, each weighed, spread evenly over the time they took. The rest of the slice is idle.
//! A slice is shared when every request that can have worked in it has been told of; one told of later takes its part from
//! what was idle, never from another request.
//! INVARIANT: over all slices, requests + idle = energy, to the last microjoule, in whatever order things are told.
//! Deliberately absent: what a slice's inside looked like. Power is taken as even between two looks.

use std::collections::{BTreeMap, VecDeque};

use galerne_model::units::{MicrogramsCo2e, Millijoules};

use super::meter::Slice;

/// Fractions of a unit of work: fine enough for a slice of a second of a request of a day.
const WORK_SCALE: u128 = 1 << 24;
/// More work than any request has; keeps products inside 128 bits.
const WORK_MAX: u64 = 1 << 32;
/// Shared slices that still give of their idle part: a quarter of an hour of seconds.
const SHARED_KEPT: usize = 900;
/// Slices that wait to be shared; then the oldest is shared whoever may still come. An hour of seconds.
const WAITING_MAX: usize = 3_600;
/// Requests whose slices are still to come; more are not taken, and keep the figure they had.
const REQUESTS_MAX: usize = 200_000;
/// How long after its end a request waits for a source that is silent.
const PATIENCE_MICROS: i64 = 120_000_000;
/// Microjoules in a millijoule.
const PER_MILLIJOULE: i64 = 1_000;
/// Microjoules × milligrams per kWh that make one microgram: 3.6·10¹² µJ/kWh ÷ 1000 µg/mg.
const PER_MICROGRAM: i128 = 3_600_000_000;

/// Work done evenly over a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Start by the wall clock, microseconds since 1970.
    pub from_micros: i64,
    /// End; later than the start.
    pub to_micros: i64,
    /// Tokens times their weight.
    pub work: u64,
}

/// What came of sharing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared<K> {
    /// Start of the first slice shared.
    pub from_micros: i64,
    /// End of the last.
    pub to_micros: i64,
    /// Energy of the slices.
    pub microjoules: i64,
    /// The same in whole millijoules; what is below is in the next.
    pub millijoules: Millijoules,
    /// Of `microjoules`, what no request worked in; less than nothing where requests told of late took what was idle before.
    pub idle_microjoules: i64,
    /// Of `millijoules`, what went to requests, those that go on included.
    pub used: Millijoules,
    /// Carbon of that.
    pub used_carbon: MicrogramsCo2e,
    /// Intensity of all slices shared, in milligrams per kWh.
    pub intensity_mg_per_kwh: i64,
    /// Whether every slice was measured.
    pub is_measured: bool,
    /// Requests of which nothing more will come.
    pub ended: Vec<Ended<K>>,
}

/// A request that was given all it will be given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended<K> {
    /// Which one.
    pub key: K,
    /// Its share.
    pub microjoules: i64,
    /// The same in whole millijoules; what is below stays with the replica, as idle.
    pub millijoules: Millijoules,
    /// Carbon of its share, each slice at its own intensity.
    pub carbon: MicrogramsCo2e,
    /// Time in which it worked.
    pub worked_micros: i64,
    /// Of that, the time whose energy is known.
    pub metered_micros: i64,
    /// Whether every slice it worked in was measured.
    pub is_measured: bool,
}

/// A request that worked on the replica.
#[derive(Debug, Clone)]
struct Request {
    spans: [Span; 2],
    microjoules: i64,
    /// Microjoules times intensity.
    carbon: i128,
    metered_micros: i64,
    is_measured: bool,
    /// What `Shared::used` has told of it.
    told: (i64, i64),
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    slice: Slice,
    intensity: i64,
    /// The clock was set back behind it: whoever it waits for is told of by another time.
    is_due: bool,
}

#[derive(Debug, Clone, Copy)]
struct Past {
    slice: Slice,
    intensity: i64,
    idle: i64,
}

/// The account. `K` names requests.
#[derive(Debug)]
pub struct Account<K> {
    waiting: VecDeque<Waiting>,
    past: VecDeque<Past>,
    requests: BTreeMap<K, Request>,
    /// Of the slices shared, below a millijoule.
    carry: i64,
    /// Taken from what was idle since the last sharing.
    taken: i64,
}

impl<K> Default for Account<K> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), past: VecDeque::new(), requests: BTreeMap::new(), carry: 0, taken: 0 }
    }
}

impl<K: Ord + Clone> Account<K> {
    /// Energy was read; `intensity_mg_per_kwh` is the grid's in that time.
    pub fn read(&mut self, slice: Slice, intensity_mg_per_kwh: i64) {
        if self.waiting.back().is_some_and(|last| slice.from_micros < last.slice.from_micros) {
            self.waiting.iter_mut().for_each(|waiting| waiting.is_due = true);
        }
        let intensity = intensity_mg_per_kwh.max(0);
        self.waiting.push_back(Waiting { slice, intensity, is_due: false });
        let over = self.waiting.len().saturating_sub(WAITING_MAX);
        self.waiting.iter_mut().take(over).for_each(|waiting| waiting.is_due = true);
    }

    /// A request has worked: `spans` are its prompt's and its answer's, and overlap neither each other nor nothing. Says
    /// whether it was taken: not one told of before, nor one that did no work, nor when there are too many.
    pub fn worked(&mut self, key: K, spans: [Span; 2]) -> bool {
        let is_work = spans.iter().any(|span| span.work > 0 && span.to_micros > span.from_micros);
        if !is_work || self.requests.len() >= REQUESTS_MAX || self.requests.contains_key(&key) {
            return false;
        }
        let mut request =
            Request { spans, microjoules: 0, carbon: 0, metered_micros: 0, is_measured: true, told: (0, 0) };
        for past in &mut self.past {
            let time = request.time_in(&past.slice);
            if time == 0 {
                continue;
            }
            // As if it had been alone in that time, if so much was idle.
            let fair = part(past.slice.microjoules, whole(time), whole(length(&past.slice)));
            let given = fair.min(past.idle);
            past.idle -= given;
            self.taken += given;
            request.give(given, past.intensity, time, past.slice.is_measured);
        }
        self.requests.insert(key, request);
        true
    }

    /// Shares the slices up to `until_micros`, which all have one intensity; again until there is nothing more to share.
    /// The caller knows that requests not told of yet began later than that.
    pub fn share(&mut self, until_micros: i64) -> Option<Shared<K>> {
        let Some(first) = self.next(until_micros, None) else { return self.give_up(until_micros) };
        let intensity = first.intensity;
        let (mut microjoules, mut idle, mut is_measured) = (0, -std::mem::take(&mut self.taken), true);
        let (mut from_micros, mut to_micros) = (i64::MAX, i64::MIN);
        let mut next = Some(first);
        while let Some(Waiting { slice, .. }) = next {
            let rest = self.share_slice(&slice, intensity);
            microjoules += slice.microjoules;
            idle += rest;
            is_measured &= slice.is_measured;
            (from_micros, to_micros) = (from_micros.min(slice.from_micros), to_micros.max(slice.to_micros));
            self.past.push_back(Past { slice, intensity, idle: rest });
            if self.past.len() > SHARED_KEPT {
                self.past.pop_front();
            }
            next = self.next(until_micros, Some(intensity));
        }
        let (used, used_carbon) = self.tell();
        let whole = self.carry + microjoules;
        self.carry = whole % PER_MILLIJOULE;
        Some(Shared {
            from_micros,
            to_micros,
            microjoules,
            millijoules: Millijoules(whole / PER_MILLIJOULE),
            idle_microjoules: idle,
            used: Millijoules(used),
            used_carbon: MicrogramsCo2e(used_carbon),
            intensity_mg_per_kwh: intensity,
            is_measured,
            ended: self.end(to_micros.min(until_micros), until_micros),
        })
    }

    /// Lets go of requests whose slices will not come.
    fn give_up(&mut self, until_micros: i64) -> Option<Shared<K>> {
        let (used, used_carbon) = self.tell();
        let ended = self.end(i64::MIN, until_micros);
        if ended.is_empty() && used == 0 && used_carbon == 0 {
            return None;
        }
        Some(Shared {
            from_micros: until_micros,
            to_micros: until_micros,
            microjoules: 0,
            millijoules: Millijoules(0),
            idle_microjoules: -std::mem::take(&mut self.taken),
            used: Millijoules(used),
            used_carbon: MicrogramsCo2e(used_carbon),
            intensity_mg_per_kwh: 0,
            is_measured: true,
            ended,
        })
    }

    /// Requests that wait for slices.
    pub fn waiting_requests(&self) -> usize {
        self.requests.len()
    }

    fn next(&mut self, until_micros: i64, intensity: Option<i64>) -> Option<Waiting> {
        let first = self.waiting.front()?;
        let is_next = (first.is_due || first.slice.to_micros <= until_micros)
            && intensity.is_none_or(|intensity| intensity == first.intensity);
        if is_next { self.waiting.pop_front() } else { None }
    }

    /// Gives each request its part of a slice; returns what is idle.
    fn share_slice(&mut self, slice: &Slice, intensity: i64) -> i64 {
        let mut at_work: Vec<(&mut Request, u128)> = self
            .requests
            .values_mut()
            .filter_map(|request| {
                let work = request.work_in(slice);
                (work > 0).then_some((request, work))
            })
            .collect();
        let busy = busy_time(slice, at_work.iter().flat_map(|(request, _)| &request.spans));
        let energy = part(slice.microjoules, whole(busy), whole(length(slice)));
        let sum: u128 = at_work.iter().map(|(_, work)| *work).sum();
        let mut given = 0;
        let mut remainders = Vec::with_capacity(at_work.len());
        for (index, (request, work)) in at_work.iter_mut().enumerate() {
            let time = request.time_in(slice);
            let share = part(energy, *work, sum);
            given += share;
            request.give(share, intensity, time, slice.is_measured);
            remainders.push((std::cmp::Reverse(whole(energy) * *work % sum), index));
        }
        // Largest remainders first, then the earlier key.
        remainders.sort_unstable();
        for (_, index) in remainders {
            if given == energy {
                break;
            }
            given += 1;
            at_work[index].0.give(1, intensity, 0, true);
        }
        slice.microjoules - given
    }

    /// What requests have in whole units more than was told before.
    fn tell(&mut self) -> (i64, i64) {
        let mut more = (0, 0);
        for request in self.requests.values_mut() {
            let (millijoules, carbon) = (request.millijoules(), request.micrograms());
            more = (more.0 + millijoules - request.told.0, more.1 + carbon - request.told.1);
            request.told = (millijoules, carbon);
        }
        more
    }

    /// Lets go of requests whose slices are all shared, or will not come.
    fn end(&mut self, shared_until: i64, until: i64) -> Vec<Ended<K>> {
        // A slice that waits may be theirs.
        let silent_until = if self.waiting.is_empty() { until.saturating_sub(PATIENCE_MICROS) } else { i64::MIN };
        let is_over = |request: &Request| request.end() <= shared_until.max(silent_until);
        let over: Vec<K> =
            self.requests.iter().filter(|(_, request)| is_over(request)).map(|(key, _)| key.clone()).collect();
        let ended = over.into_iter().filter_map(|key| {
            let request = self.requests.remove(&key)?;
            Some(Ended {
                key,
                microjoules: request.microjoules,
                millijoules: Millijoules(request.told.0),
                carbon: MicrogramsCo2e(request.told.1),
                worked_micros: request.spans.iter().map(time_of).sum(),
                metered_micros: request.metered_micros,
                is_measured: request.is_measured,
            })
        });
        ended.collect()
    }
}

impl Request {
    fn end(&self) -> i64 {
        self.spans.iter().filter(|span| time_of(span) > 0).map(|span| span.to_micros).max().unwrap_or(i64::MIN)
    }

    /// Time in which it worked in a slice.
    fn time_in(&self, slice: &Slice) -> i64 {
        self.spans.iter().map(|span| overlap(span, slice)).sum()
    }

    /// Its work in a slice, in fractions. Any work counts.
    fn work_in(&self, slice: &Slice) -> u128 {
        let of = |span: &Span| match overlap(span, slice) {
            0 => 0,
            time => {
                let work = u128::from(span.work.min(WORK_MAX)) * WORK_SCALE * whole(time);
                (work / whole(time_of(span))).max(1)
            }
        };
        self.spans.iter().map(of).sum()
    }

    fn give(&mut self, microjoules: i64, intensity: i64, time: i64, is_measured: bool) {
        self.microjoules += microjoules;
        self.carbon += i128::from(microjoules) * i128::from(intensity);
        self.metered_micros += time;
        self.is_measured &= is_measured;
    }

    fn millijoules(&self) -> i64 {
        self.microjoules / PER_MILLIJOULE
    }

    fn micrograms(&self) -> i64 {
        i64::try_from(self.carbon / PER_MICROGRAM).unwrap_or(i64::MAX)
    }
}

/// Time of a span in which something was done.
fn time_of(span: &Span) -> i64 {
    if span.work == 0 { 0 } else { span.to_micros.saturating_sub(span.from_micros).max(0) }
}

fn length(slice: &Slice) -> i64 {
    slice.to_micros.saturating_sub(slice.from_micros).max(1)
}

fn overlap(span: &Span, slice: &Slice) -> i64 {
    if span.work == 0 {
        return 0;
    }
    let (from, to) = (span.from_micros.max(slice.from_micros), span.to_micros.min(slice.to_micros));
    to.saturating_sub(from).max(0)
}

/// Time of a slice in which anybody worked.
fn busy_time<'a>(slice: &Slice, spans: impl Iterator<Item = &'a Span>) -> i64 {
    let mut times: Vec<(i64, i64)> = spans
        .filter(|span| overlap(span, slice) > 0)
        .map(|span| (span.from_micros.max(slice.from_micros), span.to_micros.min(slice.to_micros)))
        .collect();
    times.sort_unstable();
    let (mut busy, mut until) = (0, slice.from_micros);
    for (from, to) in times {
        busy += (to - from.max(until)).max(0);
        until = until.max(to);
    }
    busy
}

/// `energy` × `some` ÷ `all`, rounded down; nothing of nothing.
fn part(energy: i64, some: u128, all: u128) -> i64 {
    let part = (whole(energy) * some).checked_div(all).unwrap_or(0);
    i64::try_from(part).unwrap_or(i64::MAX).min(energy.max(0))
}

/// Without its sign, which neither times nor energies have here.
fn whole(value: i64) -> u128 {
    value.max(0).unsigned_abs().into()
}

#[cfg(test)]
mod tests;
