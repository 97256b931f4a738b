//! What keeps files in order beside requests: life times, objects of deleted files, objects that nobody knows.
//!
//! It looks only at what is recorded and may end between any two lines: a row that is marked deleted stays until its object
//! is gone, and an object without a row is of an upload that ended half-way.
//! INVARIANT: objects are removed for want of a row only where they bear the mark of this database. One that shares its place with
//! another site's, or was restored to an earlier state, does not know what the others' or the later ones are.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt as _;
use galerne_drivers::objects::ObjectError;
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::file::{File, object_of};
use galerne_model::ids::{EventId, FileId};
use galerne_store::StoreError;
use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::app::App;
use crate::http::refusal::chain;

/// How often life times are looked at: none is longer overdue.
const INTERVAL: Duration = Duration::from_secs(20);
/// Rounds between two sweeps: an hour, and one at the start.
const SWEEP_ROUNDS: u32 = 180;
/// Files handled in one round; the next goes on.
const AT_ONCE: i64 = 500;
/// Age from which an object without a row is nobody's: longer than any upload takes between the two.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(1);
/// Age from which an unfinished write is nobody's: longer than any upload takes.
const UNFINISHED_AGE: Duration = Duration::from_secs(24 * 3600);

/// Runs until it is stopped: at once, for a storage that hangs may not hold up the server's end, and what it does may be cut
/// anywhere.
pub(crate) async fn run(app: App, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = rounds(app) => {}
    }
}

async fn rounds(app: App) {
    if let Err(error) = app.files().objects.probe().await {
        // Inference needs no files: it goes on, and whoever uploads is told.
        tracing::error!(error = %chain(&error), "files cannot be kept where the configuration says");
    }
    let mut round: u32 = 0;
    loop {
        if let Err(error) = end_lives(&app, App::now()).await {
            tracing::warn!(error = %chain(&error), "files whose time is over cannot be deleted now");
        }
        if round.is_multiple_of(SWEEP_ROUNDS) {
            sweep_own(&app).await;
        }
        round = round.wrapping_add(1);
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Removes the object of a file that is marked deleted, then its row. What cannot go now goes with a later round.
pub(crate) async fn remove(app: &App, id: FileId) {
    if let Err(error) = app.files().objects.delete(&object_of(id)).await {
        tracing::warn!(error = %chain(&error), file_id = %id, "the object of a deleted file stays for now");
        return;
    }
    if let Err(error) = app.store().file_forget(id).await {
        tracing::warn!(error = %chain(&error), file_id = %id, "the row of a deleted file stays for now");
    }
}

async fn end_lives(app: &App, now: Timestamp) -> Result<(), StoreError> {
    let open = app.store().batches_open().await?;
    let read: BTreeSet<FileId> = open.into_iter().flat_map(|batch| batch.inputs).collect();
    let mut after: Option<File> = None;
    loop {
        let over = app.store().files_expired(now, after.as_ref(), AT_ONCE).await?;
        let is_last = over.len() < usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
        // Nobody sees them any more; a batch that began with one may still read it to its end.
        for file in over.iter().filter(|file| !read.contains(&file.id)) {
            let mut tx = app.store().begin().await?;
            if tx.file_delete(file.id, now).await?.is_some() {
                tx.record(expired(file, now));
                tx.commit().await?;
            }
        }
        after = over.into_iter().next_back();
        if is_last {
            break;
        }
    }
    for id in app.store().files_deleted(AT_ONCE).await? {
        remove(app, id).await;
    }
    Ok(())
}

fn expired(file: &File, now: Timestamp) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now,
        actor: Actor::component("file-loop"),
        action: "file.expire".to_owned(),
        tenant_id: Some(file.tenant_id),
        project_id: Some(file.project_id),
        resource: Some(file.id.to_string()),
        decision: Decision::Allowed,
        before_digest: None,
        after_digest: None,
        text: format!("the time of file `{}` is over: it is deleted", file.filename),
    }
}

/// The object that says whose objects these are.
const MARK: &str = "site";

/// Removes objects that nothing names, if they are this database's.
async fn sweep_own(app: &App) {
    match is_own(app).await {
        Ok(true) => sweep(app, App::now()).await,
        Ok(false) => tracing::error!(
            "objects bear the mark of another database, so that none is removed that this one does not know; hint: give each site a place of its own, or remove the object `site` when all of them are this site's, as after a restore"
        ),
        Err(error) => tracing::warn!(error = %error, "objects are swept later"),
    }
}

/// Why it is not known whose the objects are.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    #[error("the storage of files failed")]
    Objects(#[from] ObjectError),
    #[error("the database failed")]
    Store(#[from] StoreError),
}

/// Whether the objects bear the mark of this database, which they get where they bear none.
async fn is_own(app: &App) -> Result<bool, Unknown> {
    let drawn = Uuid::now_v7().as_u64_pair().1.cast_signed();
    let mark = format!("galerne {:016x}\n", app.store().objects_mark(drawn).await?).into_bytes();
    let objects = &app.files().objects;
    let found = match objects.read(MARK, None).await {
        Ok(reading) if reading.size != mark.len() as u64 => return Ok(false),
        Ok(mut reading) => {
            let mut found = Vec::new();
            while let Some(part) = reading.bytes.try_next().await? {
                found.extend_from_slice(&part);
            }
            found
        }
        Err(ObjectError::NotFound(_)) => {
            objects.put(MARK, mark.into()).await?;
            return Ok(true);
        }
        Err(error) => return Err(error.into()),
    };
    Ok(found == mark)
}

/// Removes objects that nothing names.
async fn sweep(app: &App, now: Timestamp) {
    let objects = &app.files().objects;
    let (mut swept, mut all) = (0_u64, objects.list());
    loop {
        let found = match all.try_next().await {
            Ok(Some(found)) => found,
            Ok(None) => break,
            Err(error) => {
                return tracing::warn!(error = %chain(&error), "objects that nobody knows are looked for later");
            }
        };
        let is_old = now.duration_since(found.written_at) >= ORPHAN_AGE;
        match is_old.then(|| found.name.clone()) {
            None => {}
            Some(name) => match is_orphan(app, &name).await {
                Ok(false) => {}
                Ok(true) => match objects.delete(&name).await {
                    Ok(()) => swept += 1,
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), name, "an object that nobody knows stays for now")
                    }
                },
                Err(error) => return tracing::warn!(error = %chain(&error), "objects are swept later"),
            },
        }
    }
    let unfinished = {
        let objects = objects.clone();
        tokio::task::spawn_blocking(move || objects.sweep_unfinished(UNFINISHED_AGE, SystemTime::now())).await
    };
    match unfinished {
        Ok(Ok(unfinished)) if swept > 0 || unfinished > 0 => {
            tracing::info!(swept, unfinished, "objects of uploads that ended half-way are removed");
        }
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::warn!(%error, "unfinished writes cannot be looked for"),
        Err(error) => tracing::warn!(%error, "unfinished writes cannot be looked for"),
    }
}

/// Only names that are made here: other things in a bucket are not ours to remove.
async fn is_orphan(app: &App, name: &str) -> Result<bool, StoreError> {
    match name.split_once('/') {
        Some(("files", id)) => match id.parse() {
            Ok(id) => Ok(!app.store().file_is_known(id).await?),
            Err(_) => Ok(false),
        },
        Some(("batches", rest)) if rest.starts_with("batch_") => Ok(!app.store().segment_is_known(name).await?),
        _ => Ok(false),
    }
}
