//! POST of a new resource, for every kind but keys.

use axum::extract::State;
use axum::response::Response;
use galerne_api::error::Code;
use galerne_api::v1::{Create, Kind as ApiKind};
use galerne_core::authorize::Verb;
use galerne_model::resource::{Resource, check_name};
use http::StatusCode;
use uuid::Uuid;

use super::managed::{Level, Managed, Spec};
use super::place::Place;
use crate::app::App;
use crate::http::body::Json;
use crate::http::caller::{About, Caller};
use crate::http::refusal::Refusal;
use crate::http::write::{Terms, Told, Write, digest_of};

/// Makes one.
pub(crate) async fn create<K: Managed>(
    State(app): State<App>,
    caller: Caller,
    terms: Terms,
    Json { value: asked, digest }: Json<Create<Spec<K>>>,
) -> Result<Response, Refusal> {
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let draft = draft::<K>(&mut write, &caller, asked).await?;
    let made = insert(&mut write, &draft).await?;
    write.finish(StatusCode::CREATED, &made.shown()).await
}

/// The resource as it would be made: placed, allowed, checked.
pub(crate) async fn draft<K: Managed>(
    write: &mut Write<'_>,
    caller: &Caller,
    asked: Create<Spec<K>>,
) -> Result<K, Refusal> {
    check_name(&asked.name).map_err(|bad| Refusal::invalid("name", bad.to_string()))?;
    let (tenant, project) = (
        asked.tenant.as_deref().or(write.terms.tenant.as_deref()),
        asked.project.as_deref().or(write.terms.project.as_deref()),
    );
    let place = Place::find(&mut write.tx, caller, tenant, project).await?;
    let (tenant_id, project_id) = match K::LEVEL {
        Level::Site => (None, None),
        Level::Tenant => (place.tenant_id, None),
        Level::Project => (place.tenant_id, place.project_id),
    };
    if (K::LEVEL != Level::Site && tenant_id.is_none()) || (K::LEVEL == Level::Project && project_id.is_none()) {
        return Err(Refusal::new(Code::InvalidValue, "this belongs to a project: say which")
            .at("project", "name one of the tenant's projects"));
    }
    let mut draft = Resource {
        id: K::mint(Uuid::now_v7()),
        tenant_id,
        project_id,
        name: asked.name,
        generation: 1,
        created_at: write.now,
        updated_at: write.now,
        spec: asked.spec,
        status: K::initial(write.now),
    };
    K::settle_owner(&mut write.tx, caller, &mut draft).await?;
    let draft = K::from_resource(draft);
    let about = About { noun: <K as ApiKind>::NOUN, verb: "create", name: &draft.resource().name, id: None };
    caller.may(Verb::Create, K::RIGHTS, draft.change_scope(), &about)?;
    K::check(&mut write.tx, caller, &draft, None).await?;
    Ok(draft)
}

/// Writes a draft and its event.
pub(crate) async fn insert<K: Managed>(write: &mut Write<'_>, draft: &K) -> Result<K, Refusal> {
    let made = write.tx.insert(draft).await?;
    let resource = made.resource();
    let noun = <K as ApiKind>::NOUN;
    write.record(Told {
        action: format!("{noun}.create"),
        tenant_id: resource.tenant_id,
        project_id: resource.project_id,
        resource: &resource.id.to_string(),
        before: None,
        after: Some(digest_of(&made.clone().shown())),
        text: format!("created {noun} `{}`", resource.name),
    });
    if K::is_identity() {
        write.touches_identities();
    }
    Ok(made)
}
