//! Events of what the loops do.

use galerne_drivers::fetch::Sha256Digest;
use galerne_model::event::{Actor, Decision, Event};
use galerne_model::ids::{EventId, ProjectId, TenantId};
use galerne_model::resource::Resource;
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

/// Who did what to whom, before the details.
pub(crate) struct Fact<'a> {
    pub(crate) component: &'a str,
    pub(crate) action: &'a str,
    pub(crate) text: String,
}

/// A new event about a resource, with its digests before and after.
pub(crate) fn about<I, S, T>(
    fact: Fact<'_>,
    before: Option<&Resource<I, S, T>>,
    after: Option<&Resource<I, S, T>>,
    now: Timestamp,
) -> Event
where
    Resource<I, S, T>: Serialize,
    I: std::fmt::Display,
{
    let subject = after.or(before);
    let (tenant_id, project_id): (Option<TenantId>, Option<ProjectId>) =
        subject.map_or((None, None), |resource| (resource.tenant_id, resource.project_id));
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now,
        actor: Actor::component(fact.component),
        action: fact.action.to_owned(),
        tenant_id,
        project_id,
        resource: subject.map(|resource| resource.id.to_string()),
        decision: Decision::Allowed,
        before_digest: before.and_then(digest),
        after_digest: after.and_then(digest),
        text: fact.text,
    }
}

/// SHA-256 of a resource as JSON, in hex.
fn digest(resource: &impl Serialize) -> Option<String> {
    let json = serde_json::to_vec(resource).ok()?;
    Some(Sha256Digest::of(&json).to_string())
}
