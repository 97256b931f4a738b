//! The life of one replica: starting, ready, unready, backoff, draining, gone.

use galerne_model::ids::ReplicaId;
use galerne_model::inference::{Backend, Replica, ReplicaState, ReplicaStatus};
use galerne_model::limits::{
    REPLICA_STABLE_MS, REPLICA_START_DEADLINE_MS, REPLICA_STOP_GRACE_MS, REPLICA_UNREADY_MAX_MS,
    RESTART_BACKOFF_MAX_MS, RESTART_BACKOFF_MIN_MS,
};
use galerne_model::reason::Reason;
use jiff::Timestamp;

use super::{
    Action, Change, EndKind, Ended, Engine, Probe, Running, Sighting, after, is_due, is_external, reason_of_end,
};

/// Where a replica goes, and what to do about it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) id: ReplicaId,
    pub(super) index: u32,
    pub(super) backend: Backend,
    pub(super) status: ReplicaStatus,
    pub(super) actions: Vec<Action>,
    is_over: bool,
    engine_is_gone: bool,
}

/// The status of a replica that has just been decided.
pub(super) fn new_status(now: Timestamp) -> ReplicaStatus {
    ReplicaStatus {
        state: ReplicaState::Starting,
        reason: Reason::blocks("replica_starting", "it was created and is being started"),
        url: None,
        context_tokens: None,
        sequences: None,
        abilities: None,
        restarts: 0,
        deadline_at: Some(after(now, REPLICA_START_DEADLINE_MS)),
        since: now,
    }
}

/// Decides what happens to a replica that its endpoint keeps.
pub(super) fn step(seen: &Sighting, now: Timestamp) -> Next {
    let replica = &seen.replica;
    let mut next = Next {
        id: replica.id,
        index: replica.spec.index,
        backend: replica.spec.backend.clone(),
        status: replica.status.clone(),
        actions: Vec::new(),
        is_over: false,
        engine_is_gone: match &seen.engine {
            Engine::Absent | Engine::Ended(_) => true,
            Engine::Starting | Engine::Running(_) => is_external(&replica.spec.backend),
        },
    };
    match replica.status.state {
        ReplicaState::Starting => next.starting(&seen.engine, now),
        ReplicaState::Ready | ReplicaState::Unready => next.running(&seen.engine, now),
        ReplicaState::Backoff => next.waiting(now),
        ReplicaState::Draining => next.draining(now),
        ReplicaState::Stopped => next.over(),
    }
    next
}

impl Next {
    /// Whether it counts towards what is wanted.
    pub(super) fn is_live(&self) -> bool {
        match self.status.state {
            ReplicaState::Starting | ReplicaState::Ready | ReplicaState::Unready | ReplicaState::Backoff => true,
            ReplicaState::Draining | ReplicaState::Stopped => false,
        }
    }

    /// Whether nothing is left of it.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }

    pub(super) fn is_ready(&self) -> bool {
        self.status.state == ReplicaState::Ready
    }

    /// Ends it: it finishes its requests first when it has any.
    pub(super) fn drain(&mut self, code: &str, why: &str, now: Timestamp) {
        if !self.is_live() {
            return;
        }
        let was_running = matches!(self.status.state, ReplicaState::Ready | ReplicaState::Unready);
        self.actions.clear();
        self.enter(ReplicaState::Draining, Reason::blocks(code, why), Some(after(now, REPLICA_STOP_GRACE_MS)), now);
        if self.engine_is_gone {
            self.over();
        } else {
            self.actions.push(if was_running { Action::Stop(self.id) } else { Action::Kill(self.id) });
        }
    }

    /// The change to its row, if any.
    pub(super) fn change(self, recorded: &Replica) -> Option<Change> {
        let status = Box::new(self.status);
        if self.is_over {
            return Some(Change::Remove { id: self.id, status });
        }
        (*status != recorded.status).then_some(Change::Update { id: self.id, status })
    }

    fn starting(&mut self, engine: &Engine, now: Timestamp) {
        let overdue = is_due(self.status.deadline_at, REPLICA_START_DEADLINE_MS, now);
        match engine {
            Engine::Absent => {
                if overdue {
                    self.status.deadline_at = Some(after(now, REPLICA_START_DEADLINE_MS));
                }
                self.actions.push(Action::Start(self.id));
            }
            Engine::Starting if overdue => self.give_up("worker_start_timeout", "it was not ready in time", now),
            Engine::Starting => {}
            Engine::Running(running) => {
                self.report(running);
                match &running.probe {
                    Probe::Passed => self.enter(ReplicaState::Ready, ready(), None, now),
                    Probe::Failed { why } if is_external(&self.backend) => self.unready(why, now),
                    Probe::Failed { .. } | Probe::Pending if overdue => {
                        self.give_up("worker_start_timeout", "it started but passed no probe in time", now);
                    }
                    Probe::Failed { why } => self.status.reason = Reason::blocks("probe_failed", why.clone()),
                    Probe::Pending => {}
                }
            }
            Engine::Ended(ended) => self.back_off(ended, now),
        }
    }

    /// Ready or unready: readiness is the last probe.
    fn running(&mut self, engine: &Engine, now: Timestamp) {
        match engine {
            // It died with the control plane that held its standard input: nobody's fault, start again at once.
            Engine::Absent => {
                let reason =
                    Reason::blocks("replica_starting", "it is started again after a restart of the control plane");
                self.enter(ReplicaState::Starting, reason, Some(after(now, REPLICA_START_DEADLINE_MS)), now);
                self.forget_engine();
                self.actions.push(Action::Start(self.id));
            }
            Engine::Starting => {
                let reason = Reason::blocks("replica_starting", "it is being started");
                self.enter(ReplicaState::Starting, reason, Some(after(now, REPLICA_START_DEADLINE_MS)), now);
            }
            Engine::Running(running) => {
                self.report(running);
                match &running.probe {
                    Probe::Passed => self.enter(ReplicaState::Ready, ready(), None, now),
                    Probe::Failed { why } => self.unready(why, now),
                    Probe::Pending => {}
                }
                let stable_from = after(self.status.since, REPLICA_STABLE_MS);
                if self.is_ready() && stable_from <= now {
                    self.status.restarts = 0;
                }
            }
            Engine::Ended(ended) => self.back_off(ended, now),
        }
    }

    fn unready(&mut self, why: &str, now: Timestamp) {
        let was_unready = self.status.state == ReplicaState::Unready;
        if was_unready && !is_external(&self.backend) && is_due(self.status.deadline_at, REPLICA_UNREADY_MAX_MS, now) {
            self.give_up("replica_unresponsive", "its probes failed for too long", now);
            return;
        }
        // An external server is not ours to restart: it may stay away as long as it likes.
        let deadline = if was_unready { self.status.deadline_at } else { Some(after(now, REPLICA_UNREADY_MAX_MS)) };
        let deadline = deadline.filter(|_| !is_external(&self.backend));
        self.enter(ReplicaState::Unready, Reason::blocks("probe_failed", why), deadline, now);
    }

    fn waiting(&mut self, now: Timestamp) {
        if !self.engine_is_gone {
            self.actions.push(Action::Kill(self.id));
        } else if is_due(self.status.deadline_at, RESTART_BACKOFF_MAX_MS, now) {
            let reason =
                Reason::blocks("replica_starting", format!("start {} begins", self.status.restarts.saturating_add(1)));
            let reason = reason.because(std::mem::take(&mut self.status.reason));
            self.enter(ReplicaState::Starting, reason, Some(after(now, REPLICA_START_DEADLINE_MS)), now);
            self.actions.push(Action::Start(self.id));
        }
    }

    fn draining(&mut self, now: Timestamp) {
        if self.engine_is_gone {
            self.over();
        } else if is_due(self.status.deadline_at, REPLICA_STOP_GRACE_MS, now) {
            self.actions.push(Action::Kill(self.id));
        } else {
            self.actions.push(Action::Stop(self.id));
        }
    }

    fn over(&mut self) {
        self.status.state = ReplicaState::Stopped;
        self.status.deadline_at = None;
        self.is_over = true;
        self.actions = vec![Action::Forget(self.id)];
    }

    fn give_up(&mut self, code: &str, text: &str, now: Timestamp) {
        let ended = Ended { kind: EndKind::Crashed, code: code.to_owned(), text: text.to_owned(), hint: None };
        self.back_off(&ended, now);
        self.actions = vec![Action::Kill(self.id)];
    }

    fn back_off(&mut self, ended: &Ended, now: Timestamp) {
        let delay_ms = match ended.kind {
            EndKind::Crashed => {
                let doubled = 1u64.checked_shl(self.status.restarts.min(32)).unwrap_or(u64::MAX);
                RESTART_BACKOFF_MIN_MS.saturating_mul(doubled).min(RESTART_BACKOFF_MAX_MS)
            }
            EndKind::Refused => RESTART_BACKOFF_MAX_MS,
        };
        self.status.restarts = self.status.restarts.saturating_add(1);
        self.enter(ReplicaState::Backoff, reason_of_end(ended), Some(after(now, delay_ms)), now);
        self.forget_engine();
        self.actions.push(Action::Forget(self.id));
    }

    fn report(&mut self, running: &Running) {
        self.status.url = Some(running.url.clone());
        self.status.context_tokens = running.context_tokens;
        self.status.sequences = running.sequences;
        self.status.abilities = running.abilities;
    }

    fn forget_engine(&mut self) {
        self.status.url = None;
    }

    fn enter(&mut self, state: ReplicaState, reason: Reason, deadline_at: Option<Timestamp>, now: Timestamp) {
        if self.status.state != state {
            self.status.since = now;
        }
        self.status.state = state;
        self.status.reason = reason;
        self.status.deadline_at = deadline_at;
    }
}

fn ready() -> Reason {
    Reason::holds("replica_ready", "it passed its last probe")
}
