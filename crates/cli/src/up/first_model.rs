//! The model and endpoint of a first start: fetched, imported, served, ready.

use std::time::{Duration, Instant};

use galerne_api::client::{DryRun, ListOptions};
use galerne_api::error::Code;
use galerne_api::v1::Create;
use galerne_api::v1::catalogue::CatalogueEntry;
use galerne_model::inference::{
    Backend, Endpoint, EndpointState, Model, Pull, PullSpec, PullState, Replica, ReplicaState,
};
use galerne_model::limits;
use galerne_model::reason::Reason;

use super::Steps;
use super::phases::Phase;
use crate::commands::endpoint::spec;
use crate::commands::model::{absolute, fetched, follow, name_of};
use crate::failure::Failure;

/// How often an endpoint that comes up is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long a new endpoint may be degraded before the first start gives up: two restarts with their pauses.
const NEW_PATIENCE: Duration = Duration::from_secs(20);
/// The same for one of an earlier start: the longest pause between two restarts may just have begun, and a load follows.
const KNOWN_PATIENCE: Duration = Duration::from_millis(limits::RESTART_BACKOFF_MAX_MS + 30_000);

impl Steps<'_> {
    /// Brings an endpoint up, making it and its model where they are not there yet; says whether it was made now.
    pub(super) async fn serve_model(&mut self) -> Result<(Endpoint, bool), Failure> {
        let endpoints = self.client.list_all::<Endpoint>(&ListOptions::default()).await?;
        let usual = self.profile.endpoint.as_deref();
        let found =
            endpoints.iter().find(|endpoint| Some(endpoint.name.as_str()) == usual).or_else(|| endpoints.first());
        if let Some(endpoint) = found {
            let endpoint = self.wait_ready(endpoint.clone(), KNOWN_PATIENCE).await?;
            return Ok((endpoint, false));
        }
        let model = self.model().await?;
        let backend = Backend::Worker { model_id: model.id, context_tokens: None, sequences: None, threads: None };
        let create = Create::new(model.name.clone(), spec(backend, 1, 1));
        let endpoint: Endpoint = self.client.create(&create, DryRun::No).await?;
        let endpoint = self.wait_ready(endpoint, NEW_PATIENCE).await?;
        Ok((endpoint, true))
    }

    /// The model of a first start: the one that is here, else fetched now.
    async fn model(&self) -> Result<Model, Failure> {
        let source = absolute(&self.arguments.model)?;
        let name = name_of(&source);
        let models = self.client.list_all::<Model>(&ListOptions::default()).await?;
        if let Some(model) = models.into_iter().find(|model| model.name == name || model.spec.source == source) {
            return Ok(model);
        }
        let phase = self.phases.begin(format!("Fetching {name}"));
        let outcome = self.pull(name, source, &phase).await;
        match outcome {
            Ok(model) => {
                phase.done(fetched(&model));
                // The last note is what the import did to the file; the model card has them all.
                if let Some(note) = model.spec.notes.last() {
                    self.phases.text(4, note);
                }
                Ok(model)
            }
            Err(failure) => {
                phase.failed("Model not fetched");
                let hint = "without a network, give a file: galerne up --model file:///PATH.gguf, or later: galerne model pull file:///PATH.gguf";
                Err(if failure.code() == Code::SourceUnreachable { failure.hint(hint) } else { failure })
            }
        }
    }

    async fn pull(&self, name: String, source: String, phase: &Phase) -> Result<Model, Failure> {
        let entries: Vec<CatalogueEntry> = self.client.read_all("/api/v1/catalogue", &[]).await?;
        if let Some(entry) = entries.iter().find(|entry| entry.name == source) {
            self.phases.text(2, &format!("{}: {}, from {}", entry.name, entry.licence, entry.source));
        }
        // One that an interrupted start left running is followed instead of begun again.
        let pulls = self.client.list_all::<Pull>(&ListOptions::default()).await?;
        let is_running = |pull: &Pull| {
            pull.spec.source == source
                && matches!(pull.status.state, PullState::Pending | PullState::Fetching | PullState::Importing)
        };
        let pull = match pulls.into_iter().find(is_running) {
            Some(pull) => pull,
            None => {
                let create = Create::new(name, PullSpec { source, sha256: None, requantise: None });
                self.client.create(&create, DryRun::No).await?
            }
        };
        follow(&self.client, pull, phase).await
    }

    /// Waits until a replica of the endpoint has passed its probe, saying why it has not yet.
    async fn wait_ready(&self, endpoint: Endpoint, patience: Duration) -> Result<Endpoint, Failure> {
        let phase = self.phases.begin(format!("Starting endpoint {}", endpoint.name));
        let outcome = self.until_ready(&phase, endpoint, patience).await;
        match outcome {
            Ok(endpoint) => {
                phase.done(self.ready_text(&endpoint).await?);
                Ok(endpoint)
            }
            Err(failure) => {
                phase.failed("Endpoint not ready");
                Err(failure)
            }
        }
    }

    async fn until_ready(
        &self,
        phase: &Phase,
        mut endpoint: Endpoint,
        patience: Duration,
    ) -> Result<Endpoint, Failure> {
        let (id, begun) = (endpoint.id.to_string(), Instant::now());
        let mut degraded_since = None;
        loop {
            match endpoint.status.state {
                EndpointState::Ready | EndpointState::Asleep | EndpointState::Paused => return Ok(endpoint),
                EndpointState::Starting => degraded_since = None,
                EndpointState::Degraded => {
                    let since = *degraded_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= patience {
                        return Err(not_ready(&endpoint));
                    }
                }
            }
            if begun.elapsed() >= Duration::from_millis(limits::REPLICA_START_DEADLINE_MS) {
                return Err(not_ready(&endpoint));
            }
            phase.doing(format!("Starting endpoint {}: {}", endpoint.name, blocking(&endpoint.status.reason)));
            tokio::time::sleep(POLL_INTERVAL).await;
            endpoint = self.client.get::<Endpoint>(&id, &ListOptions::default()).await?;
        }
    }

    /// What came up: back end, context, sequences, as the replica reported them.
    async fn ready_text(&self, endpoint: &Endpoint) -> Result<String, Failure> {
        let head = match endpoint.status.state {
            EndpointState::Asleep => format!("Endpoint {} sleeps until it is called", endpoint.name),
            EndpointState::Paused => format!("Endpoint {} is paused", endpoint.name),
            _ => format!("Endpoint {} ready", endpoint.name),
        };
        let replicas = self.client.list_all::<Replica>(&ListOptions::default()).await?;
        let ready =
            |replica: &&Replica| replica.spec.endpoint_id == endpoint.id && replica.status.state == ReplicaState::Ready;
        let Some(replica) = replicas.iter().find(ready) else { return Ok(head) };
        let context = replica.status.context_tokens.map(|tokens| format!("context {tokens}"));
        let sequences = replica.status.sequences.map(|count| format!("{count} at once"));
        let parts: Vec<String> = [Some(head), context, sequences].into_iter().flatten().collect();
        Ok(parts.join(" · "))
    }
}

/// The deepest part of a reason that blocks: what is being waited for.
fn blocking(reason: &Reason) -> &str {
    reason.because.iter().find(|part| !part.holds).map_or(&reason.text, |part| blocking(part))
}

/// Why an endpoint did not come up, as its reason says.
fn not_ready(endpoint: &Endpoint) -> Failure {
    let reason = &endpoint.status.reason;
    let code = Code::parse(&reason.code).unwrap_or(Code::NoReadyReplica);
    let mut failure =
        Failure::new(code, format!("endpoint `{}` did not come up", endpoint.name)).because(reason.text.clone());
    for part in reason.because.iter().filter(|part| !part.holds) {
        failure = failure.because(part.text.clone());
    }
    failure.hint(format!("see all reasons: galerne why endpoint/{}", endpoint.name))
}
