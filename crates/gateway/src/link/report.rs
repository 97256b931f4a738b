//! Reporting: which endpoints are busy or wanted, which shares of budgets are needed or given back; in return, what the
//! ledger has settled and which shares there are.
//!
//! INVARIANT: one report at a time, and an answer is heard only by who waits for it: what is given back in a report is in
//! the answer, and an answer that came too late for its report is never believed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use galerne_api::client::Failure;
use galerne_api::gateways::{Busy, REPORT_INTERVAL_MS, Report, Reported, ShareAsk};
use galerne_model::ids::EndpointId;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::boot_time::BootTime;
use super::{Linked, WAKES_MAX, chain};
use crate::activity::EndpointActivity;
use crate::config::{Clock, Gateway, Wake};
use crate::shares::{Called, spending_of};

/// Shortest time between two reports: what one round trip on a slow network takes, so that wishes gather.
const SPACING: Duration = Duration::from_millis(20);
/// The same while requests wait for shares that others are to give back.
const WAITED_FOR: Duration = Duration::from_millis(100);

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
            () = gateway.shared.shares.lacking() => {}
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
        let answer = report(&linked, &gateway, clock(), &woken).await;
        let shares = &gateway.shared.shares;
        let pause = match &answer {
            // What is wanted back is given back at once.
            Ok(()) if shares.is_newly_recalled() => SPACING,
            Ok(()) | Err(_) if shares.is_waited_for() => WAITED_FOR,
            Ok(()) | Err(_) => Duration::from_millis(REPORT_INTERVAL_MS),
        };
        due = Instant::now() + pause;
        match answer {
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
    let busy = gateway.activity().iter().map(|activity| busy(activity, now)).collect();
    let at_ms = u64::try_from(BootTime::now().since_start().as_millis()).unwrap_or(u64::MAX);
    let shares = gateway.budgets(|book| gateway.shared.shares.asks(book, at_ms));
    let woken = woken.iter().copied().collect();
    tell(linked, gateway, Report { number: 0, busy, woken, shares }).await
}

/// Gives back what is free of all shares; before that it hears what the ledger has settled of them.
pub(super) async fn give_all_back(linked: &Linked, gateway: &Gateway) -> Result<(), Failure> {
    tell(linked, gateway, Report::default()).await?;
    let shares: Vec<ShareAsk> = gateway.budgets(|book| gateway.shared.shares.give_all_back(book));
    if shares.is_empty() {
        return Ok(());
    }
    tell(linked, gateway, Report { shares, ..Report::default() }).await
}

/// Sends a report under the next number and hears the answer.
async fn tell(linked: &Linked, gateway: &Gateway, report: Report) -> Result<(), Failure> {
    let (link, number) = {
        let mut session = linked.session();
        session.reports += 1;
        (session.link.clone(), session.reports)
    };
    let sent_at = BootTime::now();
    let Reported { settled_sequence, shares } = link.report(&Report { number, ..report }).await?;
    // That reports are heard does not make the snapshot any newer: only its stream says that this gateway may go on.
    linked.renewed(sent_at);
    // Always: what was given back is in this answer, and counts no more besides it.
    linked.spending.send_replace(Arc::new(spending_of(settled_sequence, &shares)));
    let called = |is_recalled| if is_recalled { Called::Recalled } else { Called::Borrower };
    let told = shares.iter().map(|told| (told.budget_id, told.supply, called(told.is_recalled)));
    gateway.shared.shares.heard(told);
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
