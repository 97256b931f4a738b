//! API keys: made, rotated, changed, revoked. A secret is shown once, by the answer that made it.

use axum::extract::{Request, State};
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::Create;
use galerne_api::v1::identity::{KeyCreated, RotateKey};
use galerne_core::authorize::{self, Noun, Verb};
use galerne_model::identity::{
    ApiKey, ApiKeySpec, ApiKeyStatus, KeyScope, Principal, RoleBinding, RoleBindingSpec, Scope,
};
use galerne_model::ids::KeyId;
use galerne_model::limits::NAME_MAX_CHARS;
use galerne_store::{Filter, StoreError, Tx};
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::create;
use super::kinds::{check_limits, check_model_limits, reading};
use super::managed::{Level, Managed, owner_scope};
use super::place::{Place, resolve};
use super::update;
use crate::app::App;
use crate::http::body::{Json, Segment, digest};
use crate::http::caller::{About, Caller};
use crate::http::operation as op;
use crate::http::refusal::Refusal;
use crate::http::write::{Terms, Told, Write, digest_of};

/// Longest time two keys of a rotation work beside each other: 30 days.
const OVERLAP_MAX_SECONDS: u32 = 30 * 24 * 3_600;

impl Managed for ApiKey {
    const RIGHTS: Noun = Noun::ApiKey;
    const LEVEL: Level = Level::Project;

    fn mint(uuid: Uuid) -> KeyId {
        KeyId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> ApiKeyStatus {
        let (prefix, last_four, digest) = (String::new(), String::new(), String::new());
        ApiKeyStatus { prefix, last_four, digest, last_used_at: None, revoked_at: None, rotated_to: None }
    }

    async fn check(tx: &mut Tx, caller: &Caller, draft: &Self, before: Option<&ApiKeySpec>) -> Result<(), Refusal> {
        let spec = &draft.spec;
        let mut scopes = spec.scopes.clone();
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() || scopes.len() != spec.scopes.len() {
            return Err(Refusal::invalid(
                "spec.scopes",
                "name at least one scope, each once: `inference`, `read`, `write`, `admin`",
            ));
        }
        check_limits("spec.limits", spec.limits)?;
        check_model_limits("spec.model_limits", &spec.model_limits)?;
        let unchanged = before.is_some_and(|before| before.expires_at == spec.expires_at);
        if !unchanged && spec.expires_at.is_some_and(|at| at <= App::now()) {
            return Err(Refusal::invalid("spec.expires_at", "this instant has passed"));
        }
        if before.is_some_and(|before| before.principal_id != spec.principal_id) {
            return Err(Refusal::invalid("spec.principal_id", "a key keeps its principal: make another one"));
        }
        check_principal(tx, caller, draft).await
    }

    fn shown(mut self) -> Self {
        self.status.digest.clear();
        self
    }

    fn is_identity() -> bool {
        true
    }
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = reading::<ApiKey>(router);
    let router = op::post("/api/v1/keys", "create_key", "make one; its secret is in this answer and nowhere else")
        .create_body::<ApiKey>()
        .answers::<KeyCreated>(201)
        .answers::<KeyCreated>(200)
        .on(router, create_key);
    let router = op::put("/api/v1/keys/{name}", "update_key", "replace what is asked of one")
        .update_body::<ApiKey>()
        .answers_kind::<ApiKey>(200)
        .on(router, update::update::<ApiKey>);
    let router =
        op::delete("/api/v1/keys/{name}", "revoke_key", "revoke one: it stops working at once and stays listed")
            .answers_kind::<ApiKey>(200)
            .on(router, revoke_key);
    op::post("/api/v1/keys/{name}/rotate", "rotate_key", "replace one by a new key; both work for the overlap")
        .based_on_generation()
        .body::<RotateKey>()
        .answers::<KeyCreated>(201)
        .answers::<KeyCreated>(200)
        .on(router, rotate_key)
}

/// A key may not be a way to more rights: whoever makes it could give its principal all roles it has.
async fn check_principal(tx: &mut Tx, caller: &Caller, key: &ApiKey) -> Result<(), Refusal> {
    let missing = || Refusal::invalid("spec.principal_id", "there is no such principal");
    let principal = match tx.get::<Principal>(key.spec.principal_id).await {
        Err(StoreError::NotFound { .. }) => return Err(missing()),
        other => other?,
    };
    let anywhere = caller.can(Verb::Create, Noun::ApiKey, Scope::Site);
    if principal.tenant_id != key.tenant_id && principal.id != caller.principal.id && !anywhere {
        return Err(missing());
    }
    let all = tx.list_all::<RoleBinding>(&Filter::default()).await?;
    let theirs: Vec<RoleBindingSpec> =
        all.into_iter().map(|binding| binding.spec).filter(|spec| spec.principal_id == principal.id).collect();
    let about = About { noun: "key", verb: "create", name: &key.name, id: None };
    let may = authorize::may_act_for(caller.bindings(), caller.scopes(), &theirs);
    may.map_err(|denial| caller.forbid(&denial, owner_scope(key), &about))
}

async fn create_key(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    Json { value: asked, digest }: Json<Create<ApiKeySpec>>,
) -> Result<Response, Refusal> {
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let draft: ApiKey = create::draft(&mut write, &caller, asked).await?;
    let (key, secret) = issue(&app, &mut write, draft).await?;
    answer_once(write, key, secret).await
}

/// Gives a draft its secret and writes it. A name whose key no longer works is free.
async fn issue(app: &App, write: &mut Write<'_>, mut draft: ApiKey) -> Result<(ApiKey, String), Refusal> {
    let namesake = Filter { tenant_id: draft.tenant_id, project_id: draft.project_id, name: Some(draft.name.clone()) };
    if let Some(old) = write.tx.find::<ApiKey>(&namesake).await?
        && is_over(&old, write.now)
    {
        let now = write.now;
        write.tx.delete::<ApiKey>(old.id, None, now).await?;
    }
    let drawn = app.pepper().draw().map_err(|error| {
        tracing::error!(%error, "the system gives no random bytes");
        Refusal::new(Code::Internal, "the system gives no random bytes")
    })?;
    draft.status.prefix = drawn.prefix;
    draft.status.last_four = drawn.last_four;
    draft.status.digest = drawn.digest;
    let made = create::insert(write, &draft).await?;
    Ok((made.shown(), drawn.secret))
}

fn is_over(key: &ApiKey, now: Timestamp) -> bool {
    key.status.revoked_at.is_some_and(|at| at <= now) || key.spec.expires_at.is_some_and(|at| at <= now)
}

async fn answer_once(write: Write<'_>, key: ApiKey, secret: String) -> Result<Response, Refusal> {
    let kept = KeyCreated { key: key.clone(), secret: None };
    let shown = KeyCreated { key, secret: Some(secret).filter(|_| !write.terms.dry_run) };
    write.finish_with(StatusCode::CREATED, &shown, &kept).await
}

async fn revoke_key(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    terms: Terms,
    request: Request,
) -> Result<Response, Refusal> {
    let generation = terms.generation(None)?;
    let mut write = Write::begin(&app, &caller, &terms, &digest(&request.into_parts().0, b"")).await?;
    let seen = find(&mut write, &caller, &terms, &name, Verb::Delete, "revoke").await?;
    if seen.status.revoked_at.is_some() {
        return Err(Refusal::new(Code::WrongState, "the key was revoked before"));
    }
    let now = write.now;
    // The spec stays; writing it checks the generation and moves it on.
    let after: ApiKey = write.tx.update_spec(seen.id, generation, &seen.spec, now).await?;
    let status = ApiKeyStatus { revoked_at: Some(now), ..after.status };
    let after: ApiKey = write.tx.update_status(seen.id, &status, now).await?;
    let text = format!("revoked key `{}`", seen.name);
    tell(&mut write, "key.revoke", &seen, &after, text);
    write.finish(StatusCode::OK, &after.shown()).await
}

async fn rotate_key(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    terms: Terms,
    Json { value: asked, digest }: Json<RotateKey>,
) -> Result<Response, Refusal> {
    let generation = terms.generation(asked.generation)?;
    if asked.overlap_seconds > OVERLAP_MAX_SECONDS {
        return Err(Refusal::invalid(
            "overlap_seconds",
            format!("it takes at most {OVERLAP_MAX_SECONDS}, which is 30 days"),
        ));
    }
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let seen = find(&mut write, &caller, &terms, &name, Verb::Update, "rotate").await?;
    let now = write.now;
    if is_over(&seen, now) {
        return Err(
            Refusal::new(Code::WrongState, "the key no longer works").hint("make a new one: `galerne key create`")
        );
    }
    check_principal(&mut write.tx, &caller, &seen).await?;
    let fresh = successor(&mut write.tx, &seen, now).await?;
    let (made, secret) = issue(&app, &mut write, fresh).await?;
    // Budgets count the whole line: nothing is copied, and the two cannot spend the same money.
    write.tx.follow_key(made.id, seen.id).await?;
    let end = now
        .checked_add(SignedDuration::from_secs(i64::from(asked.overlap_seconds)))
        .map_err(|_| Refusal::invalid("overlap_seconds", "this is beyond the calendar"))?;
    let expires_at = Some(seen.spec.expires_at.map_or(end, |at| at.min(end)));
    let spec = ApiKeySpec { expires_at, ..seen.spec.clone() };
    let after: ApiKey = write.tx.update_spec(seen.id, generation, &spec, now).await?;
    let revoked_at = if asked.overlap_seconds == 0 { Some(now) } else { after.status.revoked_at };
    let status = ApiKeyStatus { rotated_to: Some(made.id), revoked_at, ..after.status };
    let after: ApiKey = write.tx.update_status(seen.id, &status, now).await?;
    let text = format!("rotated key `{}` to `{}`; the old one works until {end}", seen.name, made.name);
    tell(&mut write, "key.rotate", &seen, &after, text);
    answer_once(write, made, secret).await
}

/// The key that follows: the same in everything, under the next free name `NAME.2`, `NAME.3` …
async fn successor(tx: &mut Tx, old: &ApiKey, now: Timestamp) -> Result<ApiKey, Refusal> {
    let (stem, number) = match old.name.rsplit_once('.') {
        Some((stem, number)) if !stem.is_empty() => {
            number.parse::<u32>().map_or((old.name.as_str(), 1), |number| (stem, number))
        }
        _ => (old.name.as_str(), 1),
    };
    for next in number.saturating_add(1).. {
        let ending = format!(".{next}");
        let kept: String = stem.chars().take(NAME_MAX_CHARS - ending.len()).collect();
        let name = format!("{kept}{ending}");
        let filter = Filter { tenant_id: old.tenant_id, project_id: old.project_id, name: Some(name.clone()) };
        if tx.find::<ApiKey>(&filter).await?.is_none() {
            let spec = ApiKeySpec { expires_at: old.spec.expires_at, ..old.spec.clone() };
            let id = KeyId::from_uuid(Uuid::now_v7());
            return Ok(ApiKey {
                id,
                name,
                generation: 1,
                created_at: now,
                updated_at: now,
                spec,
                status: ApiKey::initial(now),
                ..old.clone()
            });
        }
    }
    unreachable!("a project has fewer keys than there are numbers")
}

async fn find(
    write: &mut Write<'_>,
    caller: &Caller,
    terms: &Terms,
    name: &str,
    right: Verb,
    verb: &str,
) -> Result<ApiKey, Refusal> {
    let place = Place::find(&mut write.tx, caller, terms.tenant.as_deref(), terms.project.as_deref()).await?;
    let seen: ApiKey = resolve(&mut write.tx, caller, place, name).await?;
    let about = About { noun: "key", verb, name, id: Some(seen.id.to_string()) };
    caller.may(right, Noun::ApiKey, seen.change_scope(), &about)?;
    Ok(seen)
}

fn tell(write: &mut Write<'_>, action: &str, before: &ApiKey, after: &ApiKey, text: String) {
    write.record(Told {
        action: action.to_owned(),
        tenant_id: before.tenant_id,
        project_id: before.project_id,
        resource: &before.id.to_string(),
        before: Some(digest_of(&before.clone().shown())),
        after: Some(digest_of(&after.clone().shown())),
        text,
    });
    write.touches_identities();
}

/// Scopes of a key that may do everything its principal may, but be a gateway: that takes a key made for it.
pub(crate) const ALL_SCOPES: [KeyScope; 4] = [KeyScope::Inference, KeyScope::Read, KeyScope::Write, KeyScope::Admin];
