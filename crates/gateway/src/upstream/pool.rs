//! Connections to replicas that wait for their next request.
//!
//! A connection goes back to the runtime that made it, which is the one that hears of its bytes: taken from another one, each
//! part of an answer would wake two threads.
//! INVARIANT: a connection is in the pool only when its last response was read to its end and nothing came after it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::runtime::{self, Handle};

use super::address::{Address, BadAddress};
use super::socket::Socket;

/// Idle connections are kept shorter than engines keep theirs (uvicorn: 5 s), so that few are found closed.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections per replica and runtime; a burst of more closes what it does not need any more.
const IDLE_COUNT_MAX: usize = 512;

/// All replicas that were asked lately.
#[derive(Default)]
pub(super) struct Pool {
    origins: Mutex<HashMap<String, Arc<Origin>>>,
}

/// One replica, and its connections that have nothing to do.
pub(super) struct Origin {
    pub(super) address: Address,
    /// Of each runtime; the one that was used last is at the back, and is taken first.
    idle: Mutex<HashMap<runtime::Id, VecDeque<Idle>>>,
}

/// A connection, and what was read from it and not used.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) read: BytesMut,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// The replica at `url`.
    pub(super) fn origin(&self, url: &str) -> Result<Arc<Origin>, BadAddress> {
        let mut origins = lock(&self.origins);
        if let Some(origin) = origins.get(url) {
            return Ok(Arc::clone(origin));
        }
        let origin = Arc::new(Origin { address: Address::parse(url)?, idle: Mutex::default() });
        origins.insert(url.to_owned(), Arc::clone(&origin));
        Ok(origin)
    }

    /// Closes what has been idle for too long, and forgets replicas that have no connection.
    pub(super) fn keep_house(&self, now: Instant) {
        lock(&self.origins).retain(|_, origin| {
            let mut idle = lock(&origin.idle);
            idle.retain(|_, idle| {
                close_old(idle, now);
                !idle.is_empty()
            });
            // One that somebody holds may get a connection back.
            !idle.is_empty() || Arc::strong_count(origin) > 1
        });
    }
}

impl Origin {
    /// A connection that was used before and is still good as far as can be seen.
    pub(super) fn take(&self) -> Option<Connection> {
        let (now, here) = (Instant::now(), Handle::current().id());
        loop {
            let Idle { connection, since } = lock(&self.idle).get_mut(&here)?.pop_back()?;
            if now.saturating_duration_since(since) < IDLE_MAX && connection.socket.is_quiet() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection for the next request.
    pub(super) fn put(&self, connection: Connection) {
        let (now, here) = (Instant::now(), Handle::current().id());
        let mut idle = lock(&self.idle);
        let idle = idle.entry(here).or_default();
        close_old(idle, now);
        if idle.len() < IDLE_COUNT_MAX {
            idle.push_back(Idle { connection, since: now });
        }
    }

    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn idle_count(&self) -> usize {
        lock(&self.idle).values().map(VecDeque::len).sum()
    }
}

fn close_old(idle: &mut VecDeque<Idle>, now: Instant) {
    let old = idle.partition_point(|idle| now.saturating_duration_since(idle.since) >= IDLE_MAX);
    idle.drain(..old);
}

/// Every change under these locks is whole before anything can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
