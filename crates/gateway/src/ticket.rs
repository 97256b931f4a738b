//! An admitted request: what it reserved, and the one place that ends it.
//!
//! INVARIANT: a ticket ends in exactly one usage record: by `settle` or `wind_up`, or by its drop when the client left or a
//! task died. What a worker had done for a request that was cut is asked of the worker, so that leaving early is not free.

use std::sync::Arc;
use std::time::Duration;

use galerne_api::surface::Dialect;
use galerne_core::admission::{Permit, Subject};
use galerne_core::budget::{self, Used};
use galerne_core::energy;
use galerne_core::rating::{self, Charge, TokenCounts};
use galerne_core::routing::Prompt;
use galerne_model::identity::{RateLimits, ServiceTier};
use galerne_model::ids::{EndpointId, PriceBookId, RequestId, TenantId};
use galerne_model::ledger::{
    Country, EnergyMethod, Operation, Outcome, Quantities, UsageRecord, UsageTerms, WorkTimes,
};
use galerne_model::snapshot::{EndpointEntry, EnergyRate, ReplicaEnergy, ReplicaEntry};
use galerne_model::units::{MicrogramsCo2e, Millijoules, Tokens};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::activity::Busy;
use crate::board::Had;
use crate::config::{Books, Place, Shared};
use crate::line::Seat;
use crate::meter::Counted;
use crate::spool::Hold;
use crate::upstream;

/// How long a worker may take to say what it had done for a request that was cut: it ends the batch it computes first,
/// which takes seconds where a long prompt meets a large model.
pub(crate) const ACCOUNT_PATIENCE: Duration = Duration::from_secs(20);
/// HTTP status recorded for requests whose client left; nginx's number for it.
const CLIENT_LEFT: u16 = 499;

/// The right of one request to be worked on.
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    open: Option<Open>,
}

/// What an admitted request holds until it ends.
pub(crate) struct Reserved {
    pub(crate) hold: Hold,
    pub(crate) money: budget::Hold,
    pub(crate) permit: Permit,
    /// The most tokens it can use, whatever its replica says.
    pub(crate) tokens_max: u32,
    /// Its place in this process: also what is wound up behind a client that left takes one.
    pub(crate) place: Place,
    /// Its seat at the endpoint, where seats are limited; given back after the permit, or the next one would find none.
    pub(crate) seat: Option<Seat>,
}

struct Open {
    hold: Hold,
    money: budget::Hold,
    /// Absent when the work is over and only the record is to come.
    taken: Option<Taken>,
    endpoint: Arc<EndpointEntry>,
    /// The surface it came by.
    surface: Dialect,
    tier: ServiceTier,
    rate: EnergyRate,
    admitted: Instant,
    first_content: Option<Instant>,
    replica: Option<ReplicaEntry>,
    /// What routing knows of what is asked.
    prompt: Prompt,
    /// When the replica was asked.
    asked: Option<Instant>,
    /// The first content was all of it: when the prompt was done is not known.
    is_whole: bool,
    /// When the work was over; what the reply says of energy and what is recorded must be the same.
    worked: Option<Duration>,
    /// When the work was over, where the record comes later.
    ended_at: Option<Timestamp>,
    /// What was worked without an answer is not charged.
    forgiven: bool,
    /// Who worked and failed before others were asked.
    failed_at: Option<Failed>,
}

/// An endpoint that worked on a request and gave no answer.
struct Failed {
    endpoint: Arc<EndpointEntry>,
    price_book_id: Option<PriceBookId>,
    replica: Option<ReplicaEntry>,
    asked: Option<Instant>,
}

/// What keeps other requests out as long as one is worked on.
struct Taken {
    permit: Permit,
    /// Under the limits of another endpoint that took it over.
    lent: Option<Permit>,
    tokens_max: u32,
    busy: Busy,
    _place: Place,
    _seat: Option<Seat>,
}

impl Taken {
    /// Tells the limits what was used. What is left is given back when it is dropped, after the books are closed.
    fn finish(self, books: &mut Books, counted: Counted, now: Timestamp) -> (Busy, Place, Option<Seat>) {
        let Self { permit, lent, tokens_max, mut busy, _place, _seat } = self;
        // A replica that lies must not keep a key out for weeks.
        let used = counted.rated().min(tokens_max);
        books.rates.finish(permit, used);
        if let Some(lent) = lent {
            books.rates.finish(lent, used);
        }
        busy.end_at(now);
        (busy, _place, _seat)
    }
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    pub(crate) outcome: Outcome,
    pub(crate) http_status: u16,
    pub(crate) counted: Counted,
}

/// Energy and carbon of a request, with how they were obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Energy {
    pub(crate) energy: Millijoules,
    pub(crate) carbon: MicrogramsCo2e,
    pub(crate) method: EnergyMethod,
}

impl Ticket {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        reserved: Reserved,
        endpoint: &Arc<EndpointEntry>,
        tier: ServiceTier,
        rate: EnergyRate,
    ) -> Self {
        let Reserved { hold, money, permit, tokens_max, place, seat } = reserved;
        let busy = shared.activity.begin(endpoint.id, hold.started_at);
        let open = Open {
            hold,
            money,
            taken: Some(Taken { permit, lent: None, tokens_max, busy, _place: place, _seat: seat }),
            endpoint: Arc::clone(endpoint),
            surface: Dialect::Union,
            tier,
            rate,
            admitted: Instant::now(),
            first_content: None,
            asked: None,
            is_whole: false,
            replica: None,
            prompt: Prompt::default(),
            worked: None,
            ended_at: None,
            forgiven: false,
            failed_at: None,
        };
        Self { shared: Arc::clone(shared), open: Some(open) }
    }

    pub(crate) fn request_id(&self) -> RequestId {
        self.open().hold.request_id
    }

    pub(crate) fn operation(&self) -> Operation {
        self.open().hold.operation
    }

    pub(crate) fn tenant_id(&self) -> TenantId {
        self.open().hold.tenant_id
    }

    pub(crate) fn endpoint_id(&self) -> EndpointId {
        self.open().endpoint.id
    }

    /// Hands the request on to another endpoint, which is then the one that is used and paid. False when `limits`, those that
    /// hold there and did not hold before, forbid it. `own` is the endpoint under whose limits it was admitted.
    pub(crate) fn serve_by(
        &mut self,
        endpoint: &Arc<EndpointEntry>,
        limits: &[(Subject, RateLimits)],
        estimate: u32,
        own: EndpointId,
    ) -> bool {
        if self.open().endpoint.id == endpoint.id {
            return true;
        }
        let shared = Arc::clone(&self.shared);
        let now = shared.now();
        let mut books = shared.books();
        let permit = if endpoint.id == own {
            None
        } else {
            match books.rates.admit(limits, estimate, now) {
                Ok(permit) => Some(permit),
                Err(_) => return false,
            }
        };
        let open = self.open_mut();
        let taken = open.taken.as_mut().expect("its work is not over: it has not begun");
        if let Some(before) = std::mem::replace(&mut taken.lent, permit) {
            books.rates.cancel(before);
        }
        drop(books);
        taken.busy = shared.activity.begin(endpoint.id, now);
        open.hold.endpoint_id = endpoint.id;
        open.hold.price_book_id = endpoint.price_book_id;
        open.endpoint = Arc::clone(endpoint);
        true
    }

    /// The replica that was asked last may have worked before it failed: if nobody answers, that work is what is charged.
    pub(crate) fn has_worked(&mut self) {
        let open = self.open_mut();
        let replica = open.replica.clone();
        open.failed_at.get_or_insert_with(|| Failed {
            endpoint: Arc::clone(&open.endpoint),
            price_book_id: open.hold.price_book_id,
            replica,
            asked: open.asked,
        });
    }

    /// Nobody answered: goes back to whoever worked before it failed.
    pub(crate) fn back_to_work(&mut self) {
        let open = self.open_mut();
        if let Some(Failed { endpoint, price_book_id, replica, asked }) = open.failed_at.take() {
            open.hold.endpoint_id = endpoint.id;
            open.hold.price_book_id = price_book_id;
            (open.endpoint, open.replica, open.asked) = (endpoint, replica, asked);
        }
    }

    /// Says by which surface it came; without, it is the union's.
    pub(crate) fn came_by(&mut self, surface: Dialect) {
        self.open_mut().surface = surface;
    }

    /// Says what is asked, as far as routing wants to know.
    pub(crate) fn route_by(&mut self, prompt: Prompt) {
        self.open_mut().prompt = prompt;
    }

    pub(crate) fn prompt(&self) -> &Prompt {
        &self.open().prompt
    }

    /// Ends without a charge unless it is settled as answered: whoever made it makes it again.
    pub(crate) fn forgive(&mut self) {
        let open = self.open_mut();
        open.forgiven = true;
        if let Some(taken) = &mut open.taken {
            taken.busy.is_errand();
        }
    }

    /// The work is over and its record comes later: others may have what it took.
    pub(crate) fn rest(&mut self, counted: Counted) {
        let shared = Arc::clone(&self.shared);
        let open = self.open_mut();
        let now = shared.now().max(open.hold.started_at);
        open.stop_clock();
        open.ended_at = Some(now);
        let left = open.taken.take().map(|taken| taken.finish(&mut shared.books(), counted, now));
        drop(left);
    }

    /// The record that settling would write now, without its sequence.
    pub(crate) fn record(&mut self, ending: Ending) -> UsageRecord {
        let now = self.shared.now();
        self.open_mut().record(ending, now)
    }

    /// Notes which replica works on it now.
    pub(crate) fn on_replica(&mut self, replica: &ReplicaEntry) {
        let open = self.open_mut();
        open.asked = Some(Instant::now());
        open.replica = Some(replica.clone());
    }

    /// The replica that works on it.
    pub(crate) fn replica(&self) -> Option<ReplicaEntry> {
        self.open().replica.clone()
    }

    /// Notes the first content towards the client.
    pub(crate) fn first_content(&mut self) {
        let open = self.open_mut();
        open.first_content.get_or_insert_with(Instant::now);
    }

    /// Notes the whole content, of which no part was seen before.
    pub(crate) fn whole_content(&mut self) {
        self.first_content();
        self.open_mut().is_whole = true;
    }

    /// The work is over; what follows is only asking what it was.
    pub(crate) fn worked(&mut self) {
        self.open_mut().stop_clock();
    }

    /// Energy of what was counted so far.
    pub(crate) fn energy(&mut self, counted: Counted) -> Energy {
        self.open_mut().energy(counted)
    }

    /// What the caller pays for these tokens: never more than was held.
    pub(crate) fn charge(&self, counted: Counted) -> Charge {
        let open = self.open();
        open.money.bound(open.charge(counted)).charged
    }

    /// Ends the request: writes its usage record, frees what it reserved.
    pub(crate) fn settle(mut self, ending: Ending) {
        if let Some(open) = self.open.take() {
            open.settle(&self.shared, ending);
        }
    }

    /// Ends a request whose answer was cut off before anybody counted it: a worker is asked what it had done. Nobody
    /// waits for that.
    pub(crate) fn wind_up(mut self, ending: Ending) {
        if let Some(open) = self.open.take() {
            open.wind_up(&self.shared, ending);
        }
    }

    fn open(&self) -> &Open {
        self.open.as_ref().expect("only `settle` and `drop` take it, and both consume the ticket")
    }

    fn open_mut(&mut self) -> &mut Open {
        self.open.as_mut().expect("only `settle` and `drop` take it, and both consume the ticket")
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let ending = Ending { outcome: Outcome::Cancelled, http_status: CLIENT_LEFT, counted: Counted::default() };
            open.wind_up(&self.shared, ending);
        }
    }
}

impl Open {
    /// The time from admission to the end of the work, which is now unless it was before.
    fn stop_clock(&mut self) -> Duration {
        *self.worked.get_or_insert_with(|| self.admitted.elapsed())
    }

    fn wind_up(mut self, shared: &Arc<Shared>, ending: Ending) {
        if self.forgiven {
            return self.settle(shared, Ending { counted: Counted::default(), ..ending });
        }
        // At the very end of the process there is no runtime left to ask in.
        let asking = self.replica.clone().filter(|_| tokio::runtime::Handle::try_current().is_ok());
        let Some(replica) = asking else { return self.settle(shared, ending) };
        self.stop_clock();
        let shared = Arc::clone(shared);
        shared.clone().tasks.spawn(Box::pin(async move {
            let done = upstream::account(&shared, &replica, self.hold.request_id, ACCOUNT_PATIENCE).await;
            let counted = done.unwrap_or(ending.counted);
            shared.metrics.answered(counted);
            self.settle(&shared, Ending { counted, ..ending });
        }));
    }

    fn record(&mut self, ending: Ending, now: Timestamp) -> UsageRecord {
        let Ending { outcome, http_status, counted } = ending;
        let charge = self.charge(counted);
        let energy = self.energy(counted);
        UsageRecord {
            replica_id: self.replica.as_ref().map(|replica| replica.id),
            outcome,
            http_status,
            quantities: Quantities {
                prompt_tokens: Tokens(counted.prompt - counted.cached),
                cached_tokens: Tokens(counted.cached),
                completion_tokens: Tokens(counted.completion),
                micros: charge.micros,
                picos: charge.picos,
                millijoules: energy.energy,
                co2e_micrograms: energy.carbon,
            },
            energy_method: energy.method,
            first_token_micros: self.first_content.map(|at| micros(at.duration_since(self.admitted))),
            work: self.work_times(),
            terms: Some(self.terms()),
            ..self.hold.unsettled(self.ended_at.unwrap_or(now).max(self.hold.started_at))
        }
    }

    fn settle(mut self, shared: &Shared, ending: Ending) {
        let counted = ending.counted;
        let now = shared.now().max(self.hold.started_at);
        let record = shared.spool.settle(self.record(ending, now));
        let quantities = record.quantities;
        let charge = Charge { micros: quantities.micros, picos: quantities.picos };
        let used = Used { charge, energy: quantities.millijoules, carbon: quantities.co2e_micrograms };
        self.count(shared, &record, counted);
        let mut books = shared.books();
        let left = self.taken.take().map(|taken| taken.finish(&mut books, counted, now));
        books.budgets.settle(self.money, record.sequence, used);
        drop(books);
        drop(left);
    }

    /// Adds it to the series of the gateway and of the replica that was asked last.
    fn count(&self, shared: &Shared, record: &UsageRecord, counted: Counted) {
        let ended = self.worked.map_or_else(Instant::now, |worked| self.admitted + worked);
        let took = ended.saturating_duration_since(self.admitted);
        shared.metrics.settled(record, self.surface, self.tier, took);
        let (Some(replica), Some(asked)) = (&self.replica, self.asked) else { return };
        // Of a plain answer nobody saw the first token, and of one that was cut nobody knows which was the last.
        let is_stream = !self.is_whole && record.outcome == Outcome::Completed;
        let stream = self
            .first_content
            .filter(|_| is_stream)
            .map(|first| (first.saturating_duration_since(self.admitted), ended.saturating_duration_since(first)));
        let upstream = ended.saturating_duration_since(asked);
        shared.board.cell(self.endpoint.id, replica.id).ended(&Had { counted, upstream, stream });
    }

    /// When the replica worked for it, where that is wanted: where its energy is metered.
    fn work_times(&self) -> Option<WorkTimes> {
        let after = |at: Instant| micros(at.duration_since(self.admitted));
        let is_metered = self.replica.as_ref().is_some_and(|replica| replica.is_metered);
        Some(WorkTimes {
            begun_micros: after(self.asked.filter(|_| is_metered)?),
            prefilled_micros: self.first_content.filter(|_| !self.is_whole).map(after),
            ended_micros: micros(self.worked.unwrap_or_else(|| self.admitted.elapsed())),
        })
    }

    /// On whose terms it was answered: those of the endpoint that did it.
    fn terms(&self) -> UsageTerms {
        let country = self.endpoint.residency.as_deref().and_then(Country::of);
        UsageTerms { price: self.endpoint.price, service_tier: self.tier, country }
    }

    fn charge(&self, counted: Counted) -> Charge {
        let tokens = TokenCounts {
            prompt: Tokens(counted.prompt - counted.cached),
            cached: Tokens(counted.cached),
            completion: Tokens(counted.completion),
        };
        rating::charge(&self.endpoint.price, tokens).unwrap_or_else(|error| {
            // An engine that reports impossible counts: the caller pays no more than was held.
            let request_id = self.hold.request_id;
            tracing::error!(%request_id, %error, "usage cannot be priced; the hold is charged");
            Charge { micros: self.hold.held_micros, ..Charge::ZERO }
        })
    }

    fn energy(&mut self, counted: Counted) -> Energy {
        let worked = self.stop_clock();
        let (energy, method) = match self.replica.as_ref().map(|replica| replica.energy) {
            Some(ReplicaEnergy::CpuTime) => match (counted.cpu_micros, self.rate.method) {
                (Some(cpu), Some(method)) => (energy::from_cpu(cpu, self.rate.active), method),
                (None, _) | (_, None) => (Millijoules::ZERO, EnergyMethod::Unknown),
            },
            Some(ReplicaEnergy::StatedPower(power)) => {
                (energy::from_wall(micros(worked), power), EnergyMethod::Estimated)
            }
            Some(ReplicaEnergy::Unknown) | None => (Millijoules::ZERO, EnergyMethod::Unknown),
        };
        Energy { energy, carbon: energy::carbon(energy, self.rate.intensity_mg_per_kwh), method }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
