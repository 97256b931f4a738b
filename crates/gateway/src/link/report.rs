//! Reporting: which endpoints are busy or wanted, and what the ledger has settled in return.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use galerne_api::client::Failure;
use galerne_api::gateways::{Busy, REPORT_INTERVAL_MS, Report};
use galerne_model::ids::EndpointId;
use galerne_model::snapshot::Spending;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Linked, WAKES_MAX, chain};
use crate::activity::EndpointActivity;
use crate::config::{Clock, Gateway, Wake};

/// Shortest time between two reports: what one round trip on a slow network takes, so that wishes gather.
const SPACING: Duration = Duration::from_millis(20);

/// Reports until `stop`.
pub(super) async fn run(
    linked: Arc<Linked>,
    gateway: Gateway,
    clock: Clock,
    mut wakes: mpsc::Receiver<Wake>,
    stop: CancellationToken,
) {
    let mut woken = BTreeSet::new();
    let mut due = Instant::now();
    loop {
        let earliest = Instant::now() + SPACING;
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep_until(due) => {}
            () = linked.hurry.notified() => {}
            wake = wakes.recv() => match wake {
                Some(Wake { endpoint_id }) => drop(woken.insert(endpoint_id)),
                None => return,
            },
        }
        sleep_until(earliest).await;
        while woken.len() < WAKES_MAX
            && let Ok(Wake { endpoint_id }) = wakes.try_recv()
        {
            woken.insert(endpoint_id);
        }
        due = Instant::now() + Duration::from_millis(REPORT_INTERVAL_MS);
        match report(&linked, &gateway, clock(), &woken).await {
            Ok(()) => woken.clear(),
            // The stream of snapshots finds out too, and warns.
            Err(failure) => tracing::debug!(error = %chain(&failure), "a report was not heard"),
        }
    }
}

async fn report(
    linked: &Linked,
    gateway: &Gateway,
    now: Timestamp,
    woken: &BTreeSet<EndpointId>,
) -> Result<(), Failure> {
    let (link, number) = {
        let mut session = linked.session();
        session.reports += 1;
        (session.link.clone(), session.reports)
    };
    let busy = gateway.activity().iter().map(|activity| busy(activity, now)).collect();
    let reported = link.report(&Report { number, busy, woken: woken.iter().copied().collect() }).await?;
    // That reports are heard does not make the snapshot any newer: only its stream says that this gateway may go on.
    linked.spending.send_if_modified(|known| {
        let news = reported.settled_sequence > known.settled_sequence;
        if news {
            *known = Arc::new(Spending { settled_sequence: reported.settled_sequence, ..Spending::default() });
        }
        news
    });
    Ok(())
}

fn busy(activity: &EndpointActivity, now: Timestamp) -> Busy {
    let quiet = now.as_millisecond().saturating_sub(activity.last_request_at.as_millisecond());
    Busy {
        endpoint_id: activity.endpoint_id,
        in_flight: u32::try_from(activity.in_flight).unwrap_or(u32::MAX),
        quiet_ms: u64::try_from(quiet).unwrap_or(0),
        oldest_ms: activity.oldest_at.map(|at| {
            let age = now.as_millisecond().saturating_sub(at.as_millisecond());
            u64::try_from(age).unwrap_or(0)
        }),
    }
}
