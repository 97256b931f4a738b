//! Pulls: downloads of models, and the catalogue they can be named from.

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::catalogue::CatalogueEntry;
use galerne_api::v1::{AtGeneration, Page};
use galerne_core::authorize::{Denial, Noun, Verb};
use galerne_drivers::catalogue::{self, Wanted};
use galerne_model::identity::Scope;
use galerne_model::ids::PullId;
use galerne_model::inference::{Pull, PullSpec, PullState, PullStatus, Reach};
use galerne_model::resource::Resource;
use galerne_model::units::Bytes;
use galerne_store::Tx;
use http::StatusCode;
use jiff::Timestamp;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::kinds::{creating, reading};
use super::managed::{Level, Managed};
use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Json, Params, Segment, answer};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::paging::{PageParams, cut};
use crate::http::refusal::Refusal;
use crate::http::write::{Terms, Told, Write, digest_of};

/// The conversation whose memory the catalogue states.
const CONVERSATION_TOKENS: u64 = 4_096;
/// Longest source; file paths stay below it.
const SOURCE_MAX_CHARS: usize = 1_000;

impl Managed for Pull {
    const RIGHTS: Noun = Noun::Pull;
    const LEVEL: Level = Level::Project;

    fn mint(uuid: Uuid) -> PullId {
        PullId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> PullStatus {
        let (state, reach) = (PullState::Pending, Reach::Public);
        PullStatus { state, reach, done: Bytes::ZERO, total: None, model_id: None, reason: None }
    }

    async fn settle_owner(
        _tx: &mut Tx,
        caller: &Caller,
        draft: &mut Resource<PullId, PullSpec, PullStatus>,
    ) -> Result<(), Refusal> {
        // The download runs later, when nobody's rights are at hand.
        if runs_the_site(caller) {
            draft.status.reach = Reach::Anywhere;
        }
        Ok(())
    }

    async fn check(_tx: &mut Tx, caller: &Caller, draft: &Self, _before: Option<&PullSpec>) -> Result<(), Refusal> {
        check(caller, draft)
    }
}

fn check(caller: &Caller, draft: &Pull) -> Result<(), Refusal> {
    let spec = &draft.spec;
    if spec.source.is_empty() || spec.source.chars().count() > SOURCE_MAX_CHARS {
        return Err(Refusal::invalid("spec.source", format!("it takes 1 to {SOURCE_MAX_CHARS} characters")));
    }
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if spec.sha256.as_deref().is_some_and(|text| !is_digest(text)) {
        return Err(Refusal::invalid("spec.sha256", "write 64 lower-case hex digits"));
    }
    let wanted = catalogue::resolve(&spec.source).map_err(|error| {
        let refusal = Refusal::new(Code::SourceInvalid, error.to_string());
        match error.hint() {
            Some(hint) => refusal.hint(hint),
            None => refusal,
        }
    })?;
    if matches!(wanted, Wanted::Place(source) if source.is_local()) && !runs_the_site(caller) {
        // The server would read its own files, or its own ports, for the caller.
        let about = About { noun: "pull", verb: "create", name: &draft.name, id: None };
        let denial = Denial {
            code: "role_missing",
            text: "only operators may pull from the server itself".to_owned(),
            needs: vec!["the role `operator` and a key with the scope `admin`".to_owned()],
        };
        return Err(caller.forbid(&denial, draft.change_scope(), &about));
    }
    Ok(())
}

fn runs_the_site(caller: &Caller) -> bool {
    caller.can(Verb::Update, Noun::Node, Scope::Site)
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = creating::<Pull>(reading::<Pull>(router));
    let router = op::post(
        "/api/v1/pulls/{name}/cancel",
        "cancel_pull",
        "stop one that has not ended; what was fetched is kept for the next",
    )
    .based_on_generation()
    .body::<AtGeneration>()
    .answers_kind::<Pull>(200)
    .on(router, cancel);
    op::get("/api/v1/catalogue", "list_catalogue", "models that can be pulled by name; `tried` says which were tried")
        .answers_page::<CatalogueEntry>()
        .on(router, list_catalogue)
}

async fn cancel(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    terms: Terms,
    Json { value: asked, digest }: Json<AtGeneration>,
) -> Result<Response, Refusal> {
    let generation = terms.generation(asked.generation)?;
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let place = Place::find(&mut write.tx, &caller, terms.tenant.as_deref(), terms.project.as_deref()).await?;
    let seen: Pull = resolve(&mut write.tx, &caller, place, &name).await?;
    let about = About { noun: "pull", verb: "cancel", name: &name, id: Some(seen.id.to_string()) };
    caller.may(Verb::Update, Noun::Pull, seen.change_scope(), &about)?;
    if matches!(seen.status.state, PullState::Done | PullState::Failed | PullState::Cancelled) {
        return Err(Refusal::new(Code::WrongState, "the pull has ended"));
    }
    let now = write.now;
    let after: Pull = write.tx.update_spec(seen.id, generation, &seen.spec, now).await?;
    let status = PullStatus { state: PullState::Cancelled, ..after.status };
    let after: Pull = write.tx.update_status(seen.id, &status, now).await?;
    write.record(Told {
        action: "pull.cancel".to_owned(),
        tenant_id: seen.tenant_id,
        project_id: seen.project_id,
        resource: &seen.id.to_string(),
        before: Some(digest_of(&seen)),
        after: Some(digest_of(&after)),
        text: format!("cancelled pull `{}`", seen.name),
    });
    write.finish(StatusCode::OK, &after).await
}

/// Anybody with a key that may read sees what can be had.
async fn list_catalogue(caller: Caller, Params(params): Params<PageParams>) -> Result<Response, Refusal> {
    caller.may(Verb::Read, Noun::PriceBook, Scope::Site, &About::all("catalogue", "list"))?;
    let entries = catalogue::entries().iter().map(shown).collect();
    let page: Page<_> = cut(entries, &params)?;
    std::future::ready(Ok(answer(StatusCode::OK, &page))).await
}

fn shown(entry: &catalogue::Entry) -> CatalogueEntry {
    let known = |number: Option<u64>| number.and_then(|number| i64::try_from(number).ok());
    let mut description = format!("{} by {}", entry.title, entry.publisher);
    if let Some(note) = entry.notes.first() {
        description = format!("{description}: {note}");
    }
    CatalogueEntry {
        name: entry.name.clone(),
        description,
        source: entry.sources.first().map(ToString::to_string).unwrap_or_default(),
        sha256: entry.sha256.as_ref().map(ToString::to_string),
        licence: entry.licence.clone(),
        size_bytes: known(entry.size_bytes),
        memory_bytes: known(entry.memory_bytes(CONVERSATION_TOKENS, 1)),
        context_tokens: known(entry.context_tokens),
        tried: entry.tried.clone(),
        is_embedding: entry.task == catalogue::Task::Embedding,
    }
}
