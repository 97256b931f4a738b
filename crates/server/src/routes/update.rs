//! PUT of a spec, for every kind that can change.

use axum::extract::State;
use axum::response::Response;
use galerne_api::v1::{Kind as ApiKind, Update};
use galerne_core::authorize::Verb;
use http::StatusCode;

use super::managed::{Managed, Spec};
use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Json, Segment};
use crate::http::caller::{About, Caller};
use crate::http::refusal::Refusal;
use crate::http::write::{Terms, Told, Write, digest_of};

/// Replaces what is asked of one.
pub(crate) async fn update<K: Managed>(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    terms: Terms,
    Json { value: asked, digest }: Json<Update<Spec<K>>>,
) -> Result<Response, Refusal> {
    let generation = terms.generation(asked.generation)?;
    let mut write = Write::begin(&app, &caller, &terms, &digest).await?;
    let place = Place::find(&mut write.tx, &caller, terms.tenant.as_deref(), terms.project.as_deref()).await?;
    let seen: K = resolve(&mut write.tx, &caller, place, &name).await?;
    let before = seen.resource();
    let noun = <K as ApiKind>::NOUN;
    let about = About { noun, verb: "update", name: &name, id: Some(before.id.to_string()) };
    caller.may(Verb::Update, K::RIGHTS, seen.change_scope(), &about)?;
    let mut wanted = before.clone();
    wanted.spec = asked.spec;
    let wanted = K::from_resource(wanted);
    // Both what it was and what it becomes must be the caller's to change.
    caller.may(Verb::Update, K::RIGHTS, wanted.change_scope(), &about)?;
    K::check(&mut write.tx, &caller, &wanted, Some(&before.spec)).await?;
    let now = write.now;
    let after: K = write.tx.update_spec(before.id, generation, &wanted.resource().spec, now).await?;
    write.record(Told {
        action: format!("{noun}.update"),
        tenant_id: before.tenant_id,
        project_id: before.project_id,
        resource: &before.id.to_string(),
        before: Some(digest_of(&seen.clone().shown())),
        after: Some(digest_of(&after.clone().shown())),
        text: format!("changed {noun} `{}` to generation {}", before.name, after.resource().generation),
    });
    if K::is_identity() {
        write.touches_identities();
    }
    write.finish(StatusCode::OK, &after.shown()).await
}
