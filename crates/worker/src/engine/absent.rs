//! What stands in for the engine in a build without it: it refuses, and says how to build the real one.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::gguf::Header;
use crate::job::Job;
use crate::loaded::{Loaded, Task};
use crate::metrics::Metrics;
use crate::refusal::Refusal;

/// As the real engine's; nothing reads it here.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) model: PathBuf,
    pub(crate) context: usize,
    pub(crate) sequences: usize,
    pub(crate) threads: usize,
    pub(crate) task: Task,
    pub(crate) baseline: Baseline,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Baseline {
    Refuse,
    Accept,
}

#[derive(Debug)]
pub(crate) struct Engine;

impl Engine {
    #[expect(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "the real engine's signature")]
    pub(crate) fn start(
        settings: Settings,
        header: Header,
        jobs: mpsc::Receiver<Job>,
        metrics: Arc<Metrics>,
        ready: oneshot::Sender<Result<Loaded, Refusal>>,
    ) -> std::io::Result<Self> {
        tracing::debug!(?settings, ?header, ?jobs, ?metrics, "nothing to load this with");
        if ready.send(Err(Refusal::engine_absent())).is_err() {
            tracing::debug!("nobody waits for the engine any more");
        }
        Ok(Self)
    }

    pub(crate) fn join(self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf;

    #[test]
    fn a_build_without_engine_says_how_to_get_one() {
        let (_, jobs) = mpsc::channel(1);
        let (ready, loading) = oneshot::channel();
        let settings = Settings {
            model: "m".into(),
            context: 1,
            sequences: 1,
            threads: 1,
            task: Task::Generate,
            baseline: Baseline::Refuse,
        };
        let engine = Engine::start(settings, gguf::Header::small(), jobs, Arc::default(), ready).expect("starts");
        assert!(engine.join());
        let refusal = loading.blocking_recv().expect("told").expect_err("refused");
        assert_eq!(refusal.code, "engine_absent");
    }
}
