//! Threads that serve connections.
//!
//! A connection stays on one of them with everything that its requests do, the connections to replicas included: no request
//! wakes another thread, which is dearer than most of what is done for it. What is not inference runs on the process's own
//! runtime, so that a long answer of the API holds up nobody's tokens.
//! Deliberately absent: moving a connection. Each goes to the lane with the fewest when it comes.

use std::future::Future;
use std::io;
use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Threads with a runtime each. They end when this is dropped.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    stop: CancellationToken,
}

struct Lane {
    runtime: Handle,
    /// One for each connection that is here.
    connections: Arc<()>,
}

impl Lanes {
    /// One for every second processor: the others are for those whom requests keep at work, the ledger, the API and engines.
    pub(super) fn start() -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, NonZero::get).div_ceil(2);
        let mut lanes = Self { lanes: Vec::with_capacity(count), stop: CancellationToken::new() };
        for number in 0..count {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let (handle, stop) = (runtime.handle().clone(), lanes.stop.clone());
            let named = thread::Builder::new().name(format!("lane-{number}"));
            drop(named.spawn(move || runtime.block_on(stop.cancelled()))?);
            lanes.lanes.push(Lane { runtime: handle, connections: Arc::default() });
        }
        Ok(lanes)
    }

    /// Runs a connection where the fewest are.
    pub(super) fn run(&self, tasks: &TaskTracker, connection: impl Future<Output = ()> + Send + 'static) {
        let fewest = self.lanes.iter().min_by_key(|lane| Arc::strong_count(&lane.connections));
        let Some(lane) = fewest else { return };
        let here = Arc::clone(&lane.connections);
        let counted = async move {
            connection.await;
            drop(here);
        };
        drop(tasks.spawn_on(counted, &lane.runtime));
    }

    /// Ends the threads; what still runs on them is cut.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
