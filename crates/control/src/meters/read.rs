//! Reading many meters at once: the host's own off the async threads, others over the network.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use galerne_drivers::power::{self, SeriesReader};
use galerne_model::ids::ReplicaId;
use galerne_model::power::{PowerSource, Shows};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::handle::lock;

/// Longest wait for a meter: looks are a second apart.
const ANSWER_LIMIT: Duration = Duration::from_millis(800);

/// Reads the counters of this host, as its agent does; nothing for sources that are not this host's. May block.
pub type ReadLocal = Arc<dyn Fn(&PowerSource) -> Option<Result<Vec<Shows>, String>> + Send + Sync>;

/// What a meter shows and when it was looked at, or why it shows nothing.
type Shown = Result<(Instant, Vec<Shows>), String>;

/// Reads meters.
#[derive(Clone)]
pub(crate) struct Reader {
    series: SeriesReader,
    local: Arc<Mutex<Option<ReadLocal>>>,
}

impl Reader {
    pub(crate) fn new(local: Arc<Mutex<Option<ReadLocal>>>) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self { series: SeriesReader::new(ANSWER_LIMIT)?, local })
    }

    /// All of them at once.
    pub(crate) async fn read(&self, sources: Vec<(ReplicaId, PowerSource)>) -> Vec<(ReplicaId, Shown)> {
        let mut looks = JoinSet::new();
        for (replica_id, source) in sources {
            match source {
                PowerSource::Metrics { url, series } => {
                    let reader = self.series.clone();
                    looks.spawn(async move {
                        let shown = reader.at_address(&url, &series).await;
                        (replica_id, shown.map(|shows| (Instant::now(), vec![shows])).map_err(|why| why.to_string()))
                    });
                }
                PowerSource::File { path, series } => {
                    looks.spawn_blocking(move || {
                        let shown = power::in_file(&path, &series);
                        (replica_id, shown.map(|shows| (Instant::now(), vec![shows])).map_err(|why| why.to_string()))
                    });
                }
                source @ (PowerSource::Nvml(_) | PowerSource::Rapl) => {
                    let local = lock(&self.local).clone();
                    looks.spawn_blocking(move || {
                        let shown = local.and_then(|read| read(&source));
                        let none = || Err("not available: this process does not read its host".to_owned());
                        (replica_id, shown.unwrap_or_else(none).map(|shows| (Instant::now(), shows)))
                    });
                }
            }
        }
        let mut all = looks.join_all().await;
        all.sort_by_key(|(replica_id, _)| *replica_id);
        all
    }
}
