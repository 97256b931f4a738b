//! The first start: a tenant, a project, an operator with a key, and prices; all in one transaction.

use galerne_model::event::{Actor, Decision, Event};
use galerne_model::identity::{
    ApiKey, ApiKeySpec, ApiKeyStatus, Empty, Principal, PrincipalKind, PrincipalSpec, Project, ProjectSpec, RateLimits,
    Role, RoleBinding, RoleBindingSpec, Scope, Tenant, TenantSpec,
};
use galerne_model::ids::{EventId, KeyId, PriceBookId, PrincipalId, ProjectId, RoleBindingId, TenantId};
use galerne_model::money::{PriceBook, PriceBookSpec};
use galerne_model::resource::Resource;
use galerne_store::{Filter, Store, Tx};
use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::error::StartError;
use crate::app::{App, Pepper};
use crate::http::write::digest_of;
use crate::routes::ALL_SCOPES;

/// What the operator, its tenant and project are called.
const OPERATOR: &str = "operator";
const DEFAULT: &str = "default";

/// Does what only the first start does; returns the operator's key, or nothing when the site exists.
pub(super) async fn first_start(store: &Store, pepper: &Pepper) -> Result<Option<String>, StartError> {
    let mut tx = store.begin().await?;
    if tx.find::<Tenant>(&Filter::default()).await?.is_some() {
        return Ok(None);
    }
    let now = App::now();
    let tenant: Tenant = resource(
        TenantId::from_uuid(Uuid::now_v7()),
        None,
        None,
        DEFAULT,
        TenantSpec { description: "made at the first start".to_owned() },
        Empty {},
        now,
    );
    let tenant_id = Some(tenant.id);
    let project: Project =
        resource(ProjectId::from_uuid(Uuid::now_v7()), tenant_id, None, DEFAULT, ProjectSpec::default(), Empty {}, now);
    let spec = PrincipalSpec { kind: PrincipalKind::User, disabled: false, description: "runs the site".to_owned() };
    // The operator belongs to the site: no owner of a tenant can disable it or act as it.
    let operator: Principal =
        resource(PrincipalId::from_uuid(Uuid::now_v7()), None, None, OPERATOR, spec, Empty {}, now);
    let at_site = RoleBindingSpec { principal_id: operator.id, role: Role::Operator, scope: Scope::Site };
    let binding: RoleBinding =
        resource(RoleBindingId::from_uuid(Uuid::now_v7()), None, None, OPERATOR, at_site, Empty {}, now);
    let prices = PriceBookSpec::default();
    let prices: PriceBook = resource(PriceBookId::from_uuid(Uuid::now_v7()), None, None, "v1", prices, Empty {}, now);
    made(&mut tx, &tenant, "tenant", now).await?;
    made(&mut tx, &project, "project", now).await?;
    made(&mut tx, &operator, "principal", now).await?;
    made(&mut tx, &binding, "role-binding", now).await?;
    made(&mut tx, &prices, "price-book", now).await?;
    let secret = key(&mut tx, pepper, "first", operator.id, (tenant.id, project.id), now).await?;
    tx.commit().await?;
    tracing::info!(tenant = DEFAULT, project = DEFAULT, "first start: the site was made");
    Ok(Some(secret))
}

/// Makes another key for the oldest operator; an older key of this name that still works is revoked.
pub(super) async fn mint_key(store: &Store, pepper: &Pepper, name: &str) -> Result<String, StartError> {
    let mut tx = store.begin().await?;
    let now = App::now();
    let bindings = tx.list_all::<RoleBinding>(&Filter::default()).await?;
    let binding =
        bindings.iter().find(|binding| binding.spec.role == Role::Operator && binding.spec.scope == Scope::Site);
    let principal_id = binding.ok_or(StartError::NoOperator)?.spec.principal_id;
    let project = tx.find::<Project>(&Filter::default()).await?.ok_or(StartError::NoOperator)?;
    let tenant_id = project.tenant_id.ok_or(StartError::NoOperator)?;
    let namesake = Filter { tenant_id: Some(tenant_id), project_id: Some(project.id), name: Some(name.to_owned()) };
    if let Some(old) = tx.find::<ApiKey>(&namesake).await? {
        tx.delete::<ApiKey>(old.id, None, now).await?;
        let text = format!("replaced key `{name}` from the server's console");
        tx.record(event(
            "key.revoke",
            &old.id.to_string(),
            (Some(tenant_id), Some(project.id)),
            (Some(digest_of(&old)), None),
            text,
            now,
        ));
    }
    let secret = key(&mut tx, pepper, name, principal_id, (tenant_id, project.id), now).await?;
    tx.commit().await?;
    Ok(secret)
}

async fn key(
    tx: &mut Tx,
    pepper: &Pepper,
    name: &str,
    principal_id: PrincipalId,
    place: (TenantId, ProjectId),
    now: Timestamp,
) -> Result<String, StartError> {
    let drawn = pepper.draw().map_err(StartError::Random)?;
    let spec = ApiKeySpec {
        principal_id,
        scopes: ALL_SCOPES.to_vec(),
        expires_at: None,
        limits: RateLimits::default(),
        model_limits: Vec::new(),
        service_tier: None,
    };
    let status = ApiKeyStatus {
        prefix: drawn.prefix,
        last_four: drawn.last_four,
        digest: drawn.digest,
        last_used_at: None,
        revoked_at: None,
        rotated_to: None,
    };
    let key: ApiKey = resource(KeyId::from_uuid(Uuid::now_v7()), Some(place.0), Some(place.1), name, spec, status, now);
    tx.insert(&key).await?;
    let mut shown = key.clone();
    shown.status.digest.clear();
    let text = format!("created key `{name}` from the server's console");
    tx.record(event(
        "key.create",
        &key.id.to_string(),
        (key.tenant_id, key.project_id),
        (None, Some(digest_of(&shown))),
        text,
        now,
    ));
    Ok(drawn.secret)
}

fn resource<I, S, T>(
    id: I,
    tenant_id: Option<TenantId>,
    project_id: Option<ProjectId>,
    name: &str,
    spec: S,
    status: T,
    now: Timestamp,
) -> Resource<I, S, T> {
    Resource {
        id,
        tenant_id,
        project_id,
        name: name.to_owned(),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec,
        status,
    }
}

async fn made<I, S, T>(tx: &mut Tx, shown: &Resource<I, S, T>, noun: &str, now: Timestamp) -> Result<(), StartError>
where
    Resource<I, S, T>: galerne_store::Kind + Serialize,
    I: std::fmt::Display,
{
    tx.insert(shown).await?;
    let text = format!("created {noun} `{}` at the first start", shown.name);
    tx.record(event(
        &format!("{noun}.create"),
        &shown.id.to_string(),
        (shown.tenant_id, shown.project_id),
        (None, Some(digest_of(shown))),
        text,
        now,
    ));
    Ok(())
}

fn event(
    action: &str,
    resource: &str,
    place: (Option<TenantId>, Option<ProjectId>),
    digests: (Option<String>, Option<String>),
    text: String,
    now: Timestamp,
) -> Event {
    Event {
        id: EventId::from_uuid(Uuid::now_v7()),
        sequence: 0,
        at: now,
        actor: Actor::component("console"),
        action: action.to_owned(),
        tenant_id: place.0,
        project_id: place.1,
        resource: Some(resource.to_owned()),
        decision: Decision::Allowed,
        before_digest: digests.0,
        after_digest: digests.1,
        text,
    }
}
