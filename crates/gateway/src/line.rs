//! Seats before endpoints that have a limit of concurrent requests: who finds none waits its turn, by tier.
//!
//! The decision is `galerne_core::line`; here it is kept under a lock and told to who waits. Nothing is held while waiting,
//! neither money nor rate: a request is admitted once it has its seat.
//! INVARIANT: a seat ends once, with its [`Seat`]; who is called and has left meanwhile gives the seat to the next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use galerne_api::error::Code;
use galerne_core::line::{Arrival, Bounds, Line, WaiterId};
use galerne_model::identity::ServiceTier;
use galerne_model::ids::EndpointId;
use galerne_model::snapshot::{EndpointEntry, KeyEntry, Snapshot};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::config::Shared;
use crate::rates::SEAT_WAIT;
use crate::refusal::Refusal;

/// Per cent of the places in this process that a tier leaves to the higher ones, lowest first.
const LEFT_TO_HIGHER_PERCENT: [usize; ServiceTier::ALL.len()] = [20, 5, 0];

/// The lines of all endpoints.
#[derive(Debug, Default)]
pub(crate) struct Lines(Mutex<HashMap<EndpointId, OfEndpoint>>);

#[derive(Debug, Default)]
struct OfEndpoint {
    line: Line,
    /// The limit last seen.
    seats: u32,
    waiting: HashMap<WaiterId, oneshot::Sender<Call>>,
}

/// What somebody who waits is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Seated,
    /// A higher tier has its place.
    Displaced,
}

/// The right to be worked on by an endpoint; the next in line has it when this is dropped.
pub(crate) struct Seat {
    lines: Arc<Lines>,
    endpoint_id: EndpointId,
    since: Instant,
}

/// A place in a line.
struct Waiting {
    lines: Arc<Lines>,
    endpoint_id: EndpointId,
    id: WaiterId,
    call: oneshot::Receiver<Call>,
}

/// What a request finds at an endpoint.
enum Found {
    Seat(Seat),
    Line(Waiting),
    Nothing { retry_after: Duration },
}

/// The tier a request is served in: what it asks for, at most what its key and project may; what they may when it asks
/// for nothing.
pub(crate) fn tier(snapshot: &Snapshot, key: &KeyEntry, asked: Option<ServiceTier>) -> ServiceTier {
    let project = snapshot.projects.get(&key.project_id).and_then(|project| project.service_tier).unwrap_or_default();
    let most = key.service_tier.map_or(project, |tier| tier.min(project));
    asked.map_or(most, |asked| asked.min(most))
}

/// Refuses the lower tiers first when this process is nearly full.
pub(crate) fn shed(shared: &Shared, tier: ServiceTier) -> Result<(), Refusal> {
    let most = shared.bounds.in_flight_max;
    let left = most * LEFT_TO_HIGHER_PERCENT[tier.index()] / 100;
    if shared.in_flight() <= most - left {
        return Ok(());
    }
    shared.metrics.shed(tier);
    let text = format!(
        "{} requests are in flight, and the last {left} places of {most} are kept for higher tiers than `{}`",
        shared.in_flight(),
        tier.as_str()
    );
    Err(Refusal::new(Code::Overloaded, text).retry_after(SEAT_WAIT))
}

/// A seat at the endpoint, after a wait where there is none; nothing where it has no limit. The second says whether
/// time has passed, after which everything that was known before is looked at again.
pub(crate) async fn take(
    shared: &Arc<Shared>,
    endpoint: &EndpointEntry,
    tier: ServiceTier,
    deadline: Instant,
) -> Result<(Option<Seat>, bool), Refusal> {
    let Some(seats) = endpoint.limits.concurrent_requests else { return Ok((None, false)) };
    let mut waiting = match Lines::arrive(&shared.lines, endpoint.id, seats, tier, &shared.bounds.line) {
        Found::Seat(seat) => return Ok((Some(seat), false)),
        Found::Nothing { retry_after } => {
            shared.metrics.shed(tier);
            return Err(full(endpoint, seats, tier, "and the line before it is full").retry_after(retry_after));
        }
        Found::Line(waiting) => waiting,
    };
    let _stands = shared.metrics.in_line(tier);
    let patience = Duration::from_micros(shared.bounds.line.patience_micros[tier.index()].unsigned_abs());
    let until = deadline.min(Instant::now() + patience);
    let call = tokio::select! {
        biased;
        call = timeout_at(until, &mut waiting.call) => call.ok().and_then(Result::ok),
        () = shared.draining.cancelled() => {
            return Err(Refusal::new(Code::Draining, "the server shuts down").retry_after(SEAT_WAIT));
        }
    };
    match call {
        Some(Call::Seated) => Ok((Some(waiting.sit()), true)),
        Some(Call::Displaced) => {
            shared.metrics.shed(tier);
            Err(full(endpoint, seats, tier, "and a request of a higher tier took the place in line")
                .retry_after(SEAT_WAIT))
        }
        None => {
            shared.metrics.shed(tier);
            Err(full(endpoint, seats, tier, "and none came free in time").retry_after(SEAT_WAIT))
        }
    }
}

/// A seat for a request that this process makes itself: one that is free and that nobody waits for.
pub(crate) fn take_spare(shared: &Arc<Shared>, endpoint: &EndpointEntry) -> Result<Option<Seat>, Refusal> {
    const NEVER_WAITS: Bounds =
        Bounds { places: 0, of_tier: [0; ServiceTier::ALL.len()], patience_micros: [0; ServiceTier::ALL.len()] };
    let Some(seats) = endpoint.limits.concurrent_requests else { return Ok(None) };
    match Lines::arrive(&shared.lines, endpoint.id, seats, ServiceTier::Flex, &NEVER_WAITS) {
        Found::Seat(seat) => Ok(Some(seat)),
        Found::Line(_) | Found::Nothing { .. } => {
            Err(full(endpoint, seats, ServiceTier::Flex, "and a batch waits for one to spare").retry_after(SEAT_WAIT))
        }
    }
}

fn full(endpoint: &EndpointEntry, seats: u32, tier: ServiceTier, why: &str) -> Refusal {
    let (name, tier) = (&endpoint.name, tier.as_str());
    let text = format!("`{name}` may have {seats} requests in flight and has them, {why} (service tier `{tier}`)");
    Refusal::new(Code::RateLimited, text).param("model")
}

impl Lines {
    fn arrive(self: &Arc<Self>, endpoint_id: EndpointId, seats: u32, tier: ServiceTier, bounds: &Bounds) -> Found {
        let mut lines = self.lock();
        let here = lines.entry(endpoint_id).or_default();
        here.seats = seats;
        // The limit may have been raised since somebody came.
        here.call();
        let seat = || Seat { lines: Arc::clone(self), endpoint_id, since: Instant::now() };
        match here.line.arrive(seats, tier, bounds) {
            Arrival::Seated => Found::Seat(seat()),
            Arrival::Shed { retry_after_micros } => {
                Found::Nothing { retry_after: Duration::from_micros(retry_after_micros.unsigned_abs()) }
            }
            Arrival::Waits { id, displaced } => {
                if let Some(displaced) = displaced {
                    here.tell(displaced, Call::Displaced);
                }
                let (tell, call) = oneshot::channel();
                here.waiting.insert(id, tell);
                Found::Line(Waiting { lines: Arc::clone(self), endpoint_id, id, call })
            }
        }
    }

    /// Requests that wait in the line of an endpoint.
    pub(crate) fn in_line(&self, endpoint_id: EndpointId) -> usize {
        self.lock().get(&endpoint_id).map_or(0, |here| here.line.in_line())
    }

    fn leave(&self, endpoint_id: EndpointId, took: Duration) {
        let mut lines = self.lock();
        let Some(here) = lines.get_mut(&endpoint_id) else { return };
        let took = i64::try_from(took.as_micros()).unwrap_or(i64::MAX);
        if let Some(next) = here.line.leave(here.seats, took) {
            here.tell(next, Call::Seated);
        }
        if here.line.is_idle() {
            // Only the mean of the times is forgotten with it, and the next burst finds it anew.
            lines.remove(&endpoint_id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, OfEndpoint>> {
        // Each change is whole before the lock ends, so a panic elsewhere leaves the lines sound.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfEndpoint {
    fn call(&mut self) {
        while let Some(next) = self.line.call(self.seats) {
            self.tell(next, Call::Seated);
        }
    }

    /// Who has left meanwhile finds the call when it takes its place back.
    fn tell(&mut self, id: WaiterId, call: Call) {
        if let Some(waiter) = self.waiting.remove(&id)
            && waiter.send(call).is_err()
        {
            tracing::trace!("somebody was called who has left");
        }
    }
}

impl Waiting {
    /// It was called: what was a place is a seat.
    fn sit(self) -> Seat {
        Seat { lines: Arc::clone(&self.lines), endpoint_id: self.endpoint_id, since: Instant::now() }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        let Some(here) = lines.get_mut(&self.endpoint_id) else { return };
        here.waiting.remove(&self.id);
        if here.line.give_up(self.id) && here.line.is_idle() {
            lines.remove(&self.endpoint_id);
            return;
        }
        // Called, and nobody has looked: the seat goes to the next.
        if self.call.try_recv() == Ok(Call::Seated)
            && let Some(next) = here.line.leave(here.seats, 0)
        {
            here.tell(next, Call::Seated);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.lines.leave(self.endpoint_id, self.since.elapsed());
    }
}
