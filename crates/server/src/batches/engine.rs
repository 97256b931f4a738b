//! The engine of batches: reads their lines, runs their requests when there is room, writes their files.
//!
//! What is recorded is enough to go on after any end: which lines are done is in segments, each written with its answers
//! and usage records before any of them is settled. An answer is in the output once and billed once: one whose segment is
//! not written is not settled and its request is made again; one whose segment is written is settled by the next start
//! if it was not by this one.
//! INVARIANT: one engine runs batches of a database: the server that holds its lease. Each of its transactions takes the
//! lease's row first, so that none is committed by a server that lost it, and none while an earlier one is undecided.
//! Deliberately absent: the decisions (`galerne_core::batch`), the words of surfaces (`shape`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use galerne_core::batch::{self, Facts, Reply, Step, Turn, Verdict};
use galerne_drivers::objects::ObjectError;
use galerne_gateway::{Done, Errand};
use galerne_model::batch::{BatchEnd, BatchState, Fault};
use galerne_model::ids::{BatchId, EndpointId};
use galerne_model::ledger::BatchTerms;
use galerne_model::money::{PriceBook, PriceBookSpec};
use galerne_store::{Filter, StoreError};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::finish;
use super::input::{self, Index};
use super::lines::{self, Judge, Rules};
use super::live::{Ended, Live};
use crate::app::App;
use crate::http::refusal::chain;

/// News of tasks that wait for the engine: more than it ever starts between two looks.
const NEWS_MAX: usize = 256;
/// Requests started in one round: then results are looked at again.
const STARTS_MAX: usize = 32;
/// How often recorded batches are read when nobody says that something changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often room is looked for while requests wait for it: live traffic that stops is seen within this.
const ROOM_INTERVAL: Duration = Duration::from_millis(50);
/// Wait after the database or the storage failed.
const FAILED_WAIT: Duration = Duration::from_secs(2);

/// Longest time for the last answers to be kept when the server stops.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Wakes the engine when something was recorded that it should look at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bell(Arc<Notify>);

impl Bell {
    pub(crate) fn ring(&self) {
        self.0.notify_one();
    }
}

/// What tasks tell.
enum News {
    /// A request came to an end.
    Ended(Box<Ended>),
    /// Lines were found.
    Scanned(BatchId, Result<(Index, Option<Judge>), ObjectError>),
}

struct Engine {
    app: App,
    tasks: TaskTracker,
    live: BTreeMap<BatchId, Live>,
    tell: mpsc::Sender<News>,
    heard: mpsc::Receiver<News>,
    price_percent: u8,
    looked_at: Option<Instant>,
}

/// Runs until the server drains and the last requests have ended, or it is stopped.
pub(crate) async fn run(app: App, tasks: TaskTracker, stop: CancellationToken) {
    let (tell, heard) = mpsc::channel(NEWS_MAX);
    let price_percent = PriceBookSpec::default().batch_percent;
    let mut engine = Engine { app, tasks, live: BTreeMap::new(), tell, heard, price_percent, looked_at: None };
    let bell = engine.app.batch_bell().clone();
    loop {
        let is_draining = engine.app.is_draining();
        if is_draining && engine.in_flight() == 0 {
            break;
        }
        let looked = tokio::select! {
            // A storage that hangs does not hold up the server's end: what is cut here is done by the next start.
            () = stop.cancelled() => break,
            looked = engine.round(is_draining) => looked,
        };
        if let Err(error) = looked {
            tracing::warn!(error = %chain(&error), "batches cannot be looked at now");
            engine.looked_at = Some(Instant::now() + FAILED_WAIT);
        }
        let pause = if engine.waits_for_room() || is_draining { ROOM_INTERVAL } else { LOOK_INTERVAL };
        tokio::select! {
            () = stop.cancelled() => break,
            news = engine.heard.recv() => engine.hear(news),
            () = bell.0.notified() => engine.looked_at = None,
            () = tokio::time::sleep(pause) => {}
        }
        while let Ok(news) = engine.heard.try_recv() {
            engine.hear(Some(news));
        }
    }
    if tokio::time::timeout(LAST_WAIT, engine.flush_all()).await.is_err() {
        tracing::warn!("the storage or database does not take the last answers of batches: they will be made again");
    }
}

impl Engine {
    fn in_flight(&self) -> u32 {
        self.live.values().map(|live| live.in_flight).sum()
    }

    fn waits_for_room(&self) -> bool {
        self.live.values().any(|live| live.batch.status.state == BatchState::Running)
    }

    async fn flush_all(&mut self) {
        for live in self.live.values_mut() {
            while live.has_unkept() {
                if let Err(error) = live.flush(&self.app).await {
                    tracing::warn!(error = %error, batch_id = %live.batch.id, "answers of a batch are not kept, and will be made again");
                    break;
                }
            }
        }
    }

    /// Reads what is recorded, takes each batch a step further, starts what there is room for.
    async fn round(&mut self, is_draining: bool) -> Result<(), StoreError> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL) && !is_draining {
            self.look().await?;
            self.looked_at = Some(Instant::now());
        }
        let ids: Vec<BatchId> = self.live.keys().copied().collect();
        for id in ids {
            self.advance(id, is_draining).await?;
        }
        if !is_draining {
            self.start_some().await;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let open = self.app.store().batches_open().await?;
        let books = self.app.store().list_all::<PriceBook>(&Filter::default()).await?;
        if let Some(book) = books.iter().max_by_key(|book| book.id) {
            self.price_percent = book.spec.batch_percent.min(100);
        }
        for batch in open {
            match self.live.get_mut(&batch.id) {
                Some(live) => live.batch.status.cancel_at = batch.status.cancel_at,
                None => drop(self.live.insert(batch.id, Live::new(batch))),
            }
        }
        Ok(())
    }

    async fn advance(&mut self, id: BatchId, is_draining: bool) -> Result<(), StoreError> {
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        if live.rests_until.is_some_and(|at| at > Instant::now()) {
            return Ok(());
        }
        if live.is_flush_due(is_draining)
            && let Err(error) = live.flush(&self.app).await
        {
            tracing::warn!(error = %error, batch_id = %id, "answers of a batch cannot be kept now");
            live.rests_until = Some(Instant::now() + FAILED_WAIT);
            return live.tell(&self.app, format!("{error}: what is answered waits to be kept")).await;
        }
        if is_draining {
            return Ok(());
        }
        let refused = live.stopped.clone().or_else(|| self.app.gateway().key_refused(live.batch.key_id));
        if live.needs_index() {
            return self.scan(id, false).await;
        }
        let facts = Facts { key_refused: refused.as_deref(), left: live.left(), in_flight: live.in_flight };
        match batch::step(&live.batch, &facts, App::now()) {
            Step::Validate => self.scan(id, true).await,
            Step::Run | Step::Wait | Step::Rest => Ok(()),
            Step::End(end, reason) => live.end(&self.app, end, reason).await,
            Step::Finish => self.finish(id).await,
        }
    }

    /// Begins to look for the lines of a batch, and to judge them where they are new.
    async fn scan(&mut self, id: BatchId, is_new: bool) -> Result<(), StoreError> {
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        if live.is_scanning {
            return Ok(());
        }
        if !is_new {
            live.recall(self.app.store().segments(id).await?);
        }
        live.is_scanning = true;
        let batch = &live.batch;
        let (surface, operation, model) = (batch.surface, batch.operation, batch.model.clone());
        let mut judge = is_new.then(|| Judge::new(Rules { surface, operation, model }));
        let (objects, files, tell) = (self.app.files().objects.clone(), batch.inputs.clone(), self.tell.clone());
        self.tasks.spawn(async move {
            let found = input::scan(&objects, &files, &mut judge).await.map(|index| (index, judge));
            if tell.send(News::Scanned(id, found)).await.is_err() {
                tracing::debug!(batch_id = %id, "lines were found after the engine ended");
            }
        });
        Ok(())
    }

    fn hear(&mut self, news: Option<News>) {
        match news {
            None => {}
            Some(News::Ended(ended)) => self.ended(*ended),
            Some(News::Scanned(id, found)) => self.scanned(id, found),
        }
    }

    fn scanned(&mut self, id: BatchId, found: Result<(Index, Option<Judge>), ObjectError>) {
        let Some(live) = self.live.get_mut(&id) else { return };
        live.is_scanning = false;
        match found {
            Ok((index, None)) => live.take_index(index),
            Ok((index, Some(judge))) => {
                let judged = judge.verdict().and_then(|(count, model)| {
                    let batch = &live.batch;
                    let gateway = self.app.gateway();
                    let known = gateway.find_model(batch.key_id, batch.operation, &model, &batch.countries);
                    known
                        .map(|_| (count, model))
                        .map_err(|refusal| vec![fault(refusal.code().as_str(), refusal.message().to_owned())])
                });
                match judged {
                    Ok((count, model)) => live.begin(index, count, model),
                    Err(faults) => live.fail(faults),
                }
            }
            Err(ObjectError::NotFound(_)) => live.lose_input(),
            Err(error) => {
                tracing::warn!(error = %chain(&error), batch_id = %id, "the lines of a batch cannot be read now");
                live.rests_until = Some(Instant::now() + FAILED_WAIT);
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let Some(live) = self.live.get_mut(&ended.batch_id) else { return };
        live.in_flight = live.in_flight.saturating_sub(1);
        let retry_after_ms = ended.done.retry_after.and_then(|wait| u64::try_from(wait.as_millis()).ok());
        let reply = Reply { status: ended.done.status, retry_after_ms, failures: ended.failures };
        match batch::verdict(reply) {
            Verdict::Answered | Verdict::Refused => live.keep(ended),
            Verdict::Later { wait_ms } => {
                live.reason = message_of(&ended.done);
                live.later(&ended, Duration::from_millis(wait_ms));
            }
            Verdict::Again { wait_ms } => live.again(&ended, Duration::from_millis(wait_ms)),
            Verdict::Stop => {
                live.stopped = Some(message_of(&ended.done).unwrap_or_else(|| "its key may not be used".to_owned()));
                live.later(&ended, FAILED_WAIT);
            }
        }
    }

    /// Starts requests as long as endpoints have room for them.
    async fn start_some(&mut self) {
        let now = Instant::now();
        let mut on_endpoint: BTreeMap<EndpointId, u32> = BTreeMap::new();
        let mut wanting: BTreeMap<EndpointId, Vec<BatchId>> = BTreeMap::new();
        for (id, live) in &mut self.live {
            let Some(model) = live.batch.model.clone() else { continue };
            let batch = &live.batch;
            match self.app.gateway().find_model(batch.key_id, batch.operation, &model, &batch.countries) {
                Ok(endpoint_id) => {
                    *on_endpoint.entry(endpoint_id).or_default() += live.in_flight;
                    if live.is_ready(now) {
                        wanting.entry(endpoint_id).or_default().push(*id);
                    }
                }
                Err(refusal) => live.reason = Some(refusal.message().to_owned()),
            }
        }
        for (endpoint_id, ids) in wanting {
            let begun = on_endpoint.get(&endpoint_id).copied().unwrap_or(0);
            for in_flight in (begun..).take(STARTS_MAX) {
                let room = batch::room(&self.app.gateway().load(endpoint_id));
                let turns: Vec<Turn<BatchId, _>> = ids
                    .iter()
                    .filter_map(|id| self.live.get(id))
                    .filter(|live| live.is_ready(now))
                    .map(|live| Turn { batch: live.batch.id, tenant: live.batch.tenant_id, in_flight: live.in_flight })
                    .collect();
                let Some(id) = batch::next_turn(&turns) else { break };
                if in_flight >= room.most {
                    for id in &ids {
                        if let Some(live) = self.live.get_mut(id) {
                            live.reason = Some(room.why.to_string());
                        }
                    }
                    break;
                }
                if !self.start(id).await {
                    break;
                }
            }
        }
    }

    /// Starts the next request of a batch.
    async fn start(&mut self, id: BatchId) -> bool {
        let Some(live) = self.live.get_mut(&id) else { return false };
        let Some((line, failures)) = live.next_line(Instant::now()) else { return false };
        let text = match live.text(&self.app, line).await {
            Ok(text) => text,
            Err(ObjectError::NotFound(_)) => {
                live.lose_input();
                return false;
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), batch_id = %id, "a line of a batch cannot be read now");
                live.put_back(line, failures, FAILED_WAIT);
                return false;
            }
        };
        let model = live.batch.model.clone().unwrap_or_default();
        let request = match lines::request(&text, &model) {
            Ok(request) => request,
            Err(error) => {
                // Judged good before: the bytes under it are others now.
                tracing::error!(%error, batch_id = %id, line, "a line of a batch is not what it was");
                live.fail(vec![fault("input_file_changed", "The input file is not what it was.".to_owned())]);
                return false;
            }
        };
        live.in_flight += 1;
        let errand = Errand {
            key_id: live.batch.key_id,
            operation: live.batch.operation,
            body: request.body.into(),
            batch: BatchTerms { batch_id: id, price_percent: self.price_percent },
            countries: live.batch.countries.as_slice().into(),
        };
        let (gateway, tell, custom_id) = (self.app.gateway().clone(), self.tell.clone(), request.custom_id);
        self.tasks.spawn(Box::pin(async move {
            let done = gateway.run(errand).await;
            let ended = Ended { batch_id: id, line, custom_id, failures, done };
            if tell.send(News::Ended(Box::new(ended))).await.is_err() {
                tracing::debug!(batch_id = %id, "a request of a batch ended after the engine: it will be made again");
            }
        }));
        true
    }

    async fn finish(&mut self, id: BatchId) -> Result<(), StoreError> {
        let Some(live) = self.live.get_mut(&id) else { return Ok(()) };
        if live.has_unkept() {
            return Ok(());
        }
        match finish::write(&self.app, live).await {
            Ok(()) => drop(self.live.remove(&id)),
            Err(error) => {
                tracing::warn!(error = %error, batch_id = %id, "the files of a batch cannot be written now");
                live.rests_until = Some(Instant::now() + FAILED_WAIT);
                live.tell_unwritten(&self.app, &error).await?;
            }
        }
        Ok(())
    }
}

/// Something that is wrong with a batch as a whole.
pub(super) fn fault(code: &str, message: String) -> Fault {
    Fault { code: code.to_owned(), message, param: None, line: None }
}

/// The words of a refusal.
fn message_of(done: &Done) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(&done.body).ok()?;
    Some(body.get("error")?.get("message")?.as_str()?.to_owned())
}

/// The code in an error file for requests that a batch ended without.
pub(super) const fn not_made(end: Option<BatchEnd>) -> (&'static str, &'static str) {
    match end {
        Some(BatchEnd::Expired) => {
            ("batch_expired", "This request could not be executed before the completion window expired.")
        }
        Some(BatchEnd::Stopped) => ("batch_stopped", "The key of the batch may not be used any more."),
        Some(BatchEnd::Failed) => ("batch_failed", "The batch failed before this request was executed."),
        Some(BatchEnd::Cancelled | BatchEnd::Completed) | None => {
            ("batch_cancelled", "The batch was cancelled before this request was executed.")
        }
    }
}
