//! Refusals that are decisions about a caller, kept until somebody writes them as events.
//!
//! The first ones of a caller, code and endpoint keep their request's id; the rest of a window are counted. Callers with
//! a key and strangers have room of their own, so that a flood of strangers takes no record from those who are known.
//! INVARIANT: every refusal noted is in exactly one event: alone, or in exactly one count.
//! INVARIANT: memory and events per window are bounded, whoever refuses to stop and however late the events are taken.
//! Deliberately absent: the store, and refusals that decide nothing about the caller (bad bodies, endpoints not ready).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use galerne_api::error::Code;
use galerne_api::surface::Dialect;
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::{EndpointId, EventId, KeyId, RequestId};
use galerne_model::limits;
use galerne_model::snapshot::KeyEntry;
use jiff::Timestamp;
use uuid::Uuid;

/// The part of Galerne that tells of counted refusals.
pub const COUNTED_BY: &str = "gateway";

/// Who asks for what, as far as it is known when a request is refused.
#[derive(Debug, Clone)]
pub(crate) struct Asker {
    pub(crate) request_id: RequestId,
    /// The surface it came by.
    pub(crate) dialect: Dialect,
    pub(crate) address: Option<IpAddr>,
    /// The key, once it was found; it may have expired.
    pub(crate) key: Option<Arc<KeyEntry>>,
    /// The endpoint, once it was found.
    pub(crate) endpoint_id: Option<EndpointId>,
}

impl Asker {
    /// Somebody at `address` with a new request.
    pub(crate) fn new(dialect: Dialect, address: Option<IpAddr>) -> Self {
        let request_id = RequestId::from_uuid(Uuid::now_v7());
        Self { request_id, dialect, address, key: None, endpoint_id: None }
    }
}

/// The refusals of the running window.
#[derive(Debug)]
pub(crate) struct DenialBook(Mutex<Window>);

#[derive(Debug)]
struct Window {
    ends: Option<Instant>,
    untaken: Vec<Event>,
    known: Side,
    strangers: Side,
}

/// Callers that share one allowance.
#[derive(Debug)]
struct Side {
    singles_left: u32,
    groups_max: usize,
    groups: HashMap<Group, Tally>,
    /// Refusals of groups that found no room, by code.
    others: BTreeMap<Code, Tally>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Group {
    who: Who,
    code: Code,
    endpoint_id: Option<EndpointId>,
}

/// Who is counted together. A stranger's network rather than its address: IPv6 gives everybody 2⁶⁴ of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Who {
    Key(KeyId),
    Network(Option<IpAddr>),
}

/// What is counted of a group.
#[derive(Debug)]
struct Tally {
    singles: u32,
    counted: u64,
    first_at: Timestamp,
    last_at: Timestamp,
    key: Option<Arc<KeyEntry>>,
    /// Where all of them came from.
    from: Option<String>,
}

/// Whether a refusal with this code decides about the caller: 401, 402, 403, 404 of a model, 429.
pub(crate) fn is_denial(code: Code) -> bool {
    matches!(
        code,
        Code::Unauthenticated
            | Code::InvalidKey
            | Code::KeyExpired
            | Code::ScopeMissing
            | Code::Forbidden
            | Code::ModelNotFound
            | Code::BudgetExhausted
            | Code::EnergyUnknown
            | Code::ResidencyUnmet
            | Code::RateLimited
    )
}

impl Default for DenialBook {
    fn default() -> Self {
        Self(Mutex::new(Window::new()))
    }
}

impl DenialBook {
    /// Notes a refusal: `text` is what the caller was told.
    pub(crate) fn note(&self, asker: &Asker, code: Code, text: &str, at: Timestamp) {
        // Every change under this lock leaves the window whole, so that a panic elsewhere does no harm.
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let window = &mut *window;
        window.ends.get_or_insert_with(|| Instant::now() + Duration::from_millis(limits::DENIAL_WINDOW_MS));
        let side = if asker.key.is_some() { &mut window.known } else { &mut window.strangers };
        let group = Group { who: Who::of(asker), code, endpoint_id: asker.endpoint_id };
        if side.takes_alone(&group, asker, at) {
            let event = single(asker, code, text, at);
            window.untaken.push(event);
        }
    }

    /// The events of what was refused since the last call; counts only when their window is over at `now`.
    pub(crate) fn take_due(&self, now: Instant) -> Vec<Event> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if window.ends.is_some_and(|ends| ends <= now) { window.close() } else { std::mem::take(&mut window.untaken) }
    }

    /// The events of everything that was refused since the last call.
    pub(crate) fn take_all(&self) -> Vec<Event> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).close()
    }
}

impl Window {
    fn new() -> Self {
        Self { ends: None, untaken: Vec::new(), known: Side::known(), strangers: Side::strangers() }
    }

    fn close(&mut self) -> Vec<Event> {
        let Self { ends: _, mut untaken, known, strangers } = std::mem::replace(self, Self::new());
        untaken.extend(known.events().chain(strangers.events()));
        untaken
    }
}

impl Side {
    fn known() -> Self {
        Self::new(limits::DENIALS_SINGLE_KNOWN_MAX, limits::DENIAL_GROUPS_KNOWN_MAX)
    }

    fn strangers() -> Self {
        Self::new(limits::DENIALS_SINGLE_STRANGERS_MAX, limits::DENIAL_GROUPS_STRANGERS_MAX)
    }

    fn new(singles_left: u32, groups_max: usize) -> Self {
        Self { singles_left, groups_max, groups: HashMap::new(), others: BTreeMap::new() }
    }

    /// Whether this refusal becomes an event of its own; it is counted otherwise.
    fn takes_alone(&mut self, group: &Group, asker: &Asker, at: Timestamp) -> bool {
        let has_room = self.groups.len() < self.groups_max || self.groups.contains_key(group);
        let tally = if has_room {
            self.groups.entry(*group).or_insert_with(|| Tally::new(group.who, asker, at))
        } else {
            self.others.entry(group.code).or_insert_with(|| Tally {
                key: None,
                from: None,
                ..Tally::new(group.who, asker, at)
            })
        };
        if has_room && tally.singles < limits::DENIALS_SINGLE_PER_GROUP && self.singles_left > 0 {
            tally.singles += 1;
            self.singles_left -= 1;
            return true;
        }
        tally.count(group.who, asker, at);
        false
    }

    fn events(self) -> impl Iterator<Item = Event> {
        let groups = self.groups.into_iter().map(|(group, tally)| (group.code, group.endpoint_id, tally));
        let others = self.others.into_iter().map(|(code, tally)| (code, None, tally));
        groups.chain(others).filter(|(_, _, tally)| tally.counted > 0).map(|(code, endpoint, tally)| {
            let text = format!(
                "{code}: {} more refused like this until {}; they are counted here and have no events of their own",
                tally.counted, tally.last_at
            );
            let actor = Actor { component: COUNTED_BY.to_owned(), address: tally.from, ..actor(tally.key.as_deref()) };
            event(actor, tally.key.as_deref(), endpoint, code, text, tally.first_at)
        })
    }
}

impl Tally {
    fn new(who: Who, asker: &Asker, at: Timestamp) -> Self {
        Self { singles: 0, counted: 0, first_at: at, last_at: at, key: asker.key.clone(), from: who.place(asker) }
    }

    fn count(&mut self, who: Who, asker: &Asker, at: Timestamp) {
        if self.counted == 0 {
            self.first_at = at;
        }
        self.counted += 1;
        self.last_at = self.last_at.max(at);
        if self.from.is_some() && self.from != who.place(asker) {
            self.from = None;
        }
    }
}

impl Who {
    fn of(asker: &Asker) -> Self {
        match (&asker.key, asker.address.map(|address| address.to_canonical())) {
            (Some(key), _) => Self::Key(key.id),
            (None, Some(IpAddr::V6(address))) => {
                let network = Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX));
                Self::Network(Some(IpAddr::V6(network)))
            }
            (None, address) => Self::Network(address),
        }
    }

    /// Where a refusal came from, as precisely as all of its group can have.
    fn place(self, asker: &Asker) -> Option<String> {
        match self {
            Self::Network(Some(IpAddr::V6(network))) => Some(format!("{network}/64")),
            Self::Key(_) | Self::Network(_) => asker.address.map(|address| address.to_string()),
        }
    }
}

fn single(asker: &Asker, code: Code, text: &str, at: Timestamp) -> Event {
    let address = asker.address.map(|address| address.to_string());
    let key = asker.key.as_deref();
    let actor = Actor { request_id: Some(asker.request_id), address, ..actor(key) };
    event(actor, key, asker.endpoint_id, code, format!("{code}: {}", printable(text)), at)
}

/// A text without what could move an operator's cursor: it may repeat what the caller sent, and is read at terminals.
fn printable(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn actor(key: Option<&KeyEntry>) -> Actor {
    Actor { principal_id: key.map(|key| key.principal_id), key_id: key.map(|key| key.id), ..Actor::default() }
}

fn event(
    actor: Actor,
    key: Option<&KeyEntry>,
    endpoint_id: Option<EndpointId>,
    code: Code,
    text: String,
    at: Timestamp,
) -> Event {
    // What is decided about a key before anything is asked for is told as `/api/v1` tells it.
    let of_key = code.http_status() == 401;
    let resource = if of_key { key.map(|key| key.id.to_string()) } else { endpoint_id.map(|id| id.to_string()) };
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at,
        action: if of_key { "key.use" } else { "inference.use" }.to_owned(),
        tenant_id: key.map(|key| key.tenant_id),
        project_id: key.map(|key| key.project_id),
        resource,
        decision: Decision::Denied,
        before_digest: None,
        after_digest: None,
        text,
        actor,
    }
}

#[cfg(test)]
mod tests;
