//! Gateways in processes of their own: who is in, in which session, and what they said they are doing.
//!
//! In memory: after a start of the control plane they join again. INVARIANT: one session per spool; a process that was
//! replaced is not let in again, so that two with one spool never take turns.
//! INVARIANT: only durations since a report was heard by this process's clock are used; the gateway's time of day is not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use galerne_api::error::Code;
use galerne_api::gateways::{Busy, Join, SILENCE_MAX_MS};
use galerne_control::Activity;
use galerne_model::limits::REQUEST_DEADLINE_MS;
use jiff::{SignedDuration, Timestamp};

use crate::http::refusal::Refusal;

/// Gateways that are remembered; each has a few kilobytes.
const GATEWAYS_MAX: usize = 1_000;
/// Processes that were replaced, remembered for each spool.
const REPLACED_MAX: usize = 16;
/// What a gateway said it has in flight counts for as long as requests can last.
const ACTIVITY_LASTS: Duration = Duration::from_millis(REQUEST_DEADLINE_MS);

/// Gateways that are or were in.
#[derive(Debug, Default)]
pub(crate) struct Fleet(Mutex<BTreeMap<i64, Member>>);

#[derive(Debug)]
struct Member {
    name: String,
    session: String,
    instance: String,
    replaced: VecDeque<String>,
    heard_at: Instant,
    reports: u64,
    busy: Vec<Busy>,
    is_gone: bool,
}

/// A report that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heard {
    /// The gateway's spool.
    pub(crate) source: i64,
    /// No later one was heard before it.
    pub(crate) is_new: bool,
}

/// Why a gateway is not in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotIn {
    /// Its session is not known: it joins again.
    SessionOver,
    /// Another process has its spool.
    Replaced,
    /// There are too many gateways.
    Full,
}

impl Fleet {
    /// Lets a gateway in under a new session; an older process with the same spool is out.
    pub(crate) fn join(&self, join: &Join, session: &str) -> Result<(), NotIn> {
        let mut members = self.lock();
        let known = members.remove(&join.source);
        let mut replaced = VecDeque::new();
        if let Some(known) = known {
            if known.replaced.contains(&join.instance) {
                members.insert(join.source, known);
                return Err(NotIn::Replaced);
            }
            replaced = known.replaced;
            if known.instance != join.instance {
                if !known.is_gone && known.heard_at.elapsed() < Duration::from_millis(SILENCE_MAX_MS) {
                    tracing::warn!(
                        source = join.source,
                        gateway = join.name,
                        "a gateway process takes the place of one that was heard a moment ago: it ended without a goodbye, or both have one spool"
                    );
                }
                replaced.push_back(known.instance);
                while replaced.len() > REPLACED_MAX {
                    replaced.pop_front();
                }
            }
        } else if members.len() >= GATEWAYS_MAX {
            let oldest = members.iter().filter(|(_, member)| member.is_gone).min_by_key(|(_, member)| member.heard_at);
            let Some(oldest) = oldest.map(|(source, _)| *source) else { return Err(NotIn::Full) };
            members.remove(&oldest);
        }
        tracing::info!(source = join.source, gateway = join.name, program = join.program, "gateway joined");
        let member = Member {
            name: join.name.clone(),
            session: session.to_owned(),
            instance: join.instance.clone(),
            replaced,
            heard_at: Instant::now(),
            reports: 0,
            busy: Vec::new(),
            is_gone: false,
        };
        members.insert(join.source, member);
        Ok(())
    }

    /// The spool of a session that is in force.
    pub(crate) fn source_of(&self, session: &str) -> Result<i64, NotIn> {
        let (source, _) = parts(session)?;
        let members = self.lock();
        let member = members.get(&source).ok_or(NotIn::SessionOver)?;
        is_current(member, session).map(|()| source)
    }

    /// Takes a report over, unless a later one was heard.
    pub(crate) fn report(&self, session: &str, number: u64, busy: Vec<Busy>) -> Result<Heard, NotIn> {
        let (source, _) = parts(session)?;
        let mut members = self.lock();
        let member = members.get_mut(&source).ok_or(NotIn::SessionOver)?;
        is_current(member, session)?;
        let is_new = number > member.reports;
        if is_new {
            member.reports = number;
            member.busy = busy;
        }
        member.heard_at = Instant::now();
        Ok(Heard { source, is_new })
    }

    /// Whether a gateway was heard a moment ago.
    pub(crate) fn is_heard(&self, source: i64) -> bool {
        let lately = Duration::from_millis(SILENCE_MAX_MS);
        self.lock().get(&source).is_some_and(|member| !member.is_gone && member.heard_at.elapsed() < lately)
    }

    /// Time since a gateway was last heard; absent when it is not remembered.
    pub(crate) fn silence_of(&self, source: i64) -> Option<Duration> {
        self.lock().get(&source).map(|member| member.heard_at.elapsed())
    }

    /// Ends a session.
    pub(crate) fn leave(&self, session: &str) -> Result<(), NotIn> {
        let (source, _) = parts(session)?;
        let mut members = self.lock();
        let member = members.get_mut(&source).ok_or(NotIn::SessionOver)?;
        is_current(member, session)?;
        member.is_gone = true;
        member.busy.clear();
        tracing::info!(source, gateway = member.name, "gateway left");
        Ok(())
    }

    /// Gateways that were heard a moment ago.
    pub(crate) fn heard_count(&self) -> usize {
        let lately = Duration::from_millis(SILENCE_MAX_MS);
        self.lock().values().filter(|member| !member.is_gone && member.heard_at.elapsed() < lately).count()
    }

    /// What they are doing, as of `now`.
    pub(crate) fn activity(&self, now: Timestamp) -> Vec<Activity> {
        let members = self.lock();
        let lately = members.values().filter(|member| member.heard_at.elapsed() < ACTIVITY_LASTS);
        let told = |member: &Member, busy: &Busy| {
            let quiet = Duration::from_millis(busy.quiet_ms).saturating_add(member.heard_at.elapsed());
            let ago = |time: Duration| SignedDuration::try_from(time).unwrap_or(SignedDuration::MAX);
            let quiet = ago(quiet);
            let age = |ms: u64| ago(Duration::from_millis(ms).saturating_add(member.heard_at.elapsed()));
            Activity {
                endpoint_id: busy.endpoint_id,
                in_flight: busy.in_flight,
                last_request_at: now.checked_sub(quiet).unwrap_or(Timestamp::MIN),
                oldest_at: busy.oldest_ms.map(|ms| now.checked_sub(age(ms)).unwrap_or(Timestamp::MIN)),
            }
        };
        lately.flat_map(|member| member.busy.iter().map(move |busy| told(member, busy))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Member>> {
        // Every change leaves a member whole, so a panic elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a gateway that is not in is told.
pub(crate) fn refused(why: NotIn) -> Refusal {
    match why {
        NotIn::SessionOver => Refusal::new(Code::GatewaySessionOver, "this session is not known here")
            .hint("the gateway joins again by itself"),
        NotIn::Replaced => {
            Refusal::new(Code::GatewayReplaced, "another process joined with the number of this gateway's spool")
                .hint("give each gateway a data directory of its own: galerne gateway --data FOLDER")
        }
        NotIn::Full => Refusal::new(Code::Overloaded, "more gateways are in than one control plane takes"),
    }
}

/// A session names its spool, so that whoever was replaced can be told from whoever is unknown.
pub(crate) fn session_of(join: &Join, unique: &str) -> String {
    format!("{}.{}.{unique}", join.source, join.instance)
}

fn parts(session: &str) -> Result<(i64, &str), NotIn> {
    let mut parts = session.split('.');
    let source = parts.next().and_then(|text| text.parse().ok());
    source.zip(parts.next()).ok_or(NotIn::SessionOver)
}

fn is_current(member: &Member, session: &str) -> Result<(), NotIn> {
    if member.session == session {
        return if member.is_gone { Err(NotIn::SessionOver) } else { Ok(()) };
    }
    let (_, instance) = parts(session)?;
    let is_replaced = member.replaced.iter().any(|replaced| replaced == instance);
    Err(if is_replaced { NotIn::Replaced } else { NotIn::SessionOver })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn join(instance: &str) -> Join {
        Join { version: 1, name: "g".into(), source: 7, instance: instance.into(), program: "0".into() }
    }

    fn enter(fleet: &Fleet, instance: &str, unique: &str) -> Result<String, NotIn> {
        let session = session_of(&join(instance), unique);
        fleet.join(&join(instance), &session).map(|()| session)
    }

    #[test]
    fn a_process_that_comes_back_is_let_in_and_one_that_was_replaced_is_not() {
        let fleet = Fleet::default();
        let first = enter(&fleet, "a", "1").expect("the first");
        let again = enter(&fleet, "a", "2").expect("the same process, after its control plane forgot it");
        assert_eq!(fleet.source_of(&first), Err(NotIn::SessionOver));
        assert_eq!(fleet.source_of(&again), Ok(7));
        let other = enter(&fleet, "b", "3").expect("the next process of the spool");
        assert_eq!(fleet.source_of(&again), Err(NotIn::Replaced));
        assert_eq!(enter(&fleet, "a", "4"), Err(NotIn::Replaced));
        assert_eq!(fleet.source_of(&other), Ok(7));
        assert_eq!(fleet.source_of("8.a.1"), Err(NotIn::SessionOver));
        assert_eq!(fleet.source_of("nonsense"), Err(NotIn::SessionOver));
    }

    #[test]
    fn of_many_that_were_replaced_the_last_ones_are_remembered() {
        let fleet = Fleet::default();
        let mut before: Option<(String, String)> = None;
        for n in 0..2 * REPLACED_MAX {
            let instance = format!("i{n}");
            let session = enter(&fleet, &instance, "1").expect("a new process");
            if let Some((instance, session)) = &before {
                assert_eq!(fleet.source_of(session), Err(NotIn::Replaced), "{instance}");
                assert_eq!(enter(&fleet, instance, "2"), Err(NotIn::Replaced), "{instance}");
            }
            before = Some((instance, session));
        }
    }

    #[test]
    fn a_report_that_comes_late_is_not_heard_and_whoever_left_is_not_counted() {
        let fleet = Fleet::default();
        let session = enter(&fleet, "a", "1").expect("in");
        let endpoint_id = galerne_model::ids::EndpointId::from_uuid(uuid::Uuid::nil());
        let busy = |in_flight| vec![Busy { endpoint_id, in_flight, quiet_ms: 5_000, oldest_ms: None }];
        fleet.report(&session, 2, busy(3)).expect("heard");
        assert_eq!(fleet.report(&session, 1, busy(9)), Ok(Heard { source: 7, is_new: false }), "late");
        let now = Timestamp::now();
        let activity = fleet.activity(now);
        assert_eq!((activity.len(), activity[0].in_flight, fleet.heard_count()), (1, 3, 1));
        assert!(activity[0].last_request_at <= now - SignedDuration::from_secs(5));
        fleet.leave(&session).expect("left");
        assert_eq!((fleet.activity(now).len(), fleet.heard_count()), (0, 0));
        assert_eq!(fleet.source_of(&session), Err(NotIn::SessionOver));
    }
}
