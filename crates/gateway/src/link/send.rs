//! Sending what must not be lost: usage, and events of refusals.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use galerne_api::client::Failure;
use galerne_api::gateways::{Events, Usage};
use galerne_model::event::Event;
use galerne_model::limits::DENIAL_WRITE_INTERVAL_MS;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{GOODBYE, Linked, chain};
use crate::config::Gateway;
use crate::spool::UsageBatch;

/// Events in one message: half a megabyte.
const EVENTS_AT_ONCE: usize = 1_000;

/// Ships batches in order. One that is not taken is offered again by the spool.
pub(super) async fn usage(linked: Arc<Linked>, mut batches: mpsc::Receiver<UsageBatch>, stop: CancellationToken) {
    loop {
        let batch = tokio::select! {
            biased;
            batch = batches.recv() => batch,
            () = stop.cancelled() => None,
        };
        let Some(UsageBatch { records, ack }) = batch else { return };
        match linked.link().usage(&Usage { records }).await {
            Ok(taken) => {
                if ack.send(taken.through).is_err() {
                    tracing::debug!("the spool gave up on a batch before it was settled; it is offered again");
                }
            }
            Err(failure) => tracing::warn!(error = %chain(&failure), "usage was not taken; it stays in the spool"),
        }
    }
}

/// Sends events of refusals, and the rest of them at the end. While nobody takes them the gateway counts on, within its
/// bounds.
pub(super) async fn events(linked: Arc<Linked>, gateway: Gateway, stop: CancellationToken) {
    let mut unsent = VecDeque::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(DENIAL_WRITE_INTERVAL_MS));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let last = tokio::select! {
            _ = ticks.tick() => false,
            () = stop.cancelled() => true,
        };
        if unsent.is_empty() {
            queue(&mut unsent, &gateway.denials());
        }
        if last {
            queue(&mut unsent, &gateway.last_denials());
        }
        let sent = tokio::time::timeout(GOODBYE, send(&linked, &mut unsent)).await;
        if let Ok(Err(failure)) = &sent {
            tracing::warn!(error = %chain(failure), waiting = count(&unsent), "events of refusals are not taken; they are sent later");
        }
        if last {
            if !unsent.is_empty() {
                tracing::error!(count = count(&unsent), "events of refusals are lost");
            }
            return;
        }
    }
}

fn count(batches: &VecDeque<Vec<Event>>) -> usize {
    batches.iter().map(Vec::len).sum()
}

/// In batches that stay as they are: the control plane knows one that it has by its first event.
fn queue(batches: &mut VecDeque<Vec<Event>>, events: &[Event]) {
    batches.extend(events.chunks(EVENTS_AT_ONCE).map(<[Event]>::to_vec));
}

async fn send(linked: &Linked, batches: &mut VecDeque<Vec<Event>>) -> Result<(), Failure> {
    while let Some(batch) = batches.front() {
        linked.link().events(&Events { events: batch.clone() }).await?;
        batches.pop_front();
    }
    Ok(())
}
