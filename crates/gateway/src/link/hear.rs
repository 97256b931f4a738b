//! Hearing snapshots: one stream at a time, opened again when it ends.

use std::sync::Arc;

use galerne_api::client::{Failure, Lines};
use galerne_api::gateways::Line;
use galerne_model::snapshot::Snapshot;
use tokio_util::sync::CancellationToken;

use super::{Linked, Pause, chain, is_final, is_over};

/// The next snapshot of a stream; nothing when the line said that all is as it was.
pub(super) async fn next(lines: &mut Lines, last: &Arc<Snapshot>) -> Result<Option<Arc<Snapshot>>, Failure> {
    match lines.next().await? {
        Line::Beat => Ok(None),
        // The first line of a stream is from the empty snapshot, whatever was known before.
        Line::Changes { number: 1, changes } => Ok(Some(Arc::new(changes.apply_to(&Snapshot::default())))),
        Line::Changes { number: _, changes } => Ok(Some(Arc::new(changes.apply_to(last)))),
    }
}

/// Hears until `stop`.
pub(super) async fn run(linked: Arc<Linked>, first: Lines, stop: CancellationToken) {
    let mut lines = Some(first);
    let mut pause = Pause::new();
    loop {
        let heard = async {
            let mut lines = match lines.take() {
                Some(lines) => lines,
                None => linked.link().snapshots().await?,
            };
            linked.session().connected = true;
            loop {
                let last = Arc::clone(&linked.snapshot.borrow());
                let news = next(&mut lines, &last).await?;
                linked.heard();
                pause = Pause::new();
                if let Some(news) = news {
                    linked.snapshot.send_replace(news);
                }
            }
        };
        let failure: Failure = tokio::select! {
            () = stop.cancelled() => return,
            heard = heard => match heard {
                Ok(never) => never,
                Err(failure) => failure,
            },
        };
        linked.session().connected = false;
        if is_final(&failure) {
            return linked.end(failure);
        }
        tracing::warn!(error = %chain(&failure), "the control plane is not heard; the last snapshot is kept");
        if is_over(&failure)
            && let Err(failure) = linked.join_again().await
        {
            tracing::warn!(error = %chain(&failure), "the control plane was not joined again");
            if is_final(&failure) {
                return linked.end(failure);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = pause.wait() => {}
        }
    }
}
