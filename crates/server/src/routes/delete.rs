//! DELETE of one, for every kind that can go.

use axum::extract::{Request, State};
use axum::response::Response;
use galerne_api::v1::Kind as ApiKind;
use galerne_core::authorize::Verb;
use http::StatusCode;

use super::managed::Managed;
use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Segment, digest};
use crate::http::caller::{About, Caller};
use crate::http::refusal::Refusal;
use crate::http::write::{Terms, Told, Write, digest_of};

/// Deletes one and returns it as it was.
pub(crate) async fn delete<K: Managed>(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    terms: Terms,
    request: Request,
) -> Result<Response, Refusal> {
    let generation = terms.generation(None)?;
    let mut write = Write::begin(&app, &caller, &terms, &digest(&request.into_parts().0, b"")).await?;
    let place = Place::find(&mut write.tx, &caller, terms.tenant.as_deref(), terms.project.as_deref()).await?;
    let seen: K = resolve(&mut write.tx, &caller, place, &name).await?;
    let resource = seen.resource();
    let noun = <K as ApiKind>::NOUN;
    let about = About { noun, verb: "delete", name: &name, id: Some(resource.id.to_string()) };
    caller.may(Verb::Delete, K::RIGHTS, seen.change_scope(), &about)?;
    K::check_unused(&mut write.tx, &caller, &seen).await?;
    let now = write.now;
    let gone: K = write.tx.delete(resource.id, Some(generation), now).await?;
    write.record(Told {
        action: format!("{noun}.delete"),
        tenant_id: resource.tenant_id,
        project_id: resource.project_id,
        resource: &resource.id.to_string(),
        before: Some(digest_of(&seen.clone().shown())),
        after: None,
        text: format!("deleted {noun} `{}`", resource.name),
    });
    if K::is_identity() {
        write.touches_identities();
    }
    write.finish(StatusCode::OK, &gone.shown()).await
}
