//! Recording a plan: rows, statuses and events in one transaction, under the epoch of the lease.

use galerne_core::endpoint::{Change, Plan};
use galerne_model::ids::ReplicaId;
use galerne_model::inference::{Endpoint, Replica, ReplicaSpec, ReplicaStatus};
use galerne_model::limits::NAME_MAX_CHARS;
use galerne_store::{Store, StoreError, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use crate::event::{Fact, about};

const COMPONENT: &str = "endpoint-loop";

/// Writes what has changed; false when nothing has.
pub(super) async fn plan(
    store: &Store,
    plan: &Plan,
    endpoint: Option<&Endpoint>,
    replicas: &[Replica],
    epoch: i64,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let status = plan.status.as_ref().filter(|status| endpoint.is_none_or(|endpoint| endpoint.status != **status));
    if plan.changes.is_empty() && status.is_none() {
        return Ok(false);
    }
    let mut tx = store.begin().await?;
    tx.require_epoch(COMPONENT, epoch).await?;
    for change in &plan.changes {
        match change {
            Change::Create { spec, status } => {
                if let Some(endpoint) = endpoint {
                    create(&mut tx, endpoint, spec, status, now).await?;
                }
            }
            Change::Update { id, status } => {
                update(&mut tx, replicas, *id, status, now).await?;
            }
            Change::Remove { id, status } => {
                let replica = update(&mut tx, replicas, *id, status, now).await?;
                tx.delete::<Replica>(*id, None, now).await?;
                let text = format!("replica `{}` is gone", replica.name);
                tx.record(about(fact("replica.remove", text), Some(&replica), None, now));
            }
        }
    }
    if let (Some(endpoint), Some(status)) = (endpoint, status) {
        let after = tx.update_status_if::<Endpoint>(endpoint.id, endpoint.updated_at, status, now).await?;
        if endpoint.status.state != status.state || endpoint.status.replicas_ready != status.replicas_ready {
            let text = format!("endpoint `{}`: {}", endpoint.name, status.reason.text);
            tx.record(about(fact("endpoint.state", text), Some(endpoint), Some(&after), now));
        }
    }
    tx.commit().await?;
    Ok(true)
}

async fn create(
    tx: &mut Tx,
    endpoint: &Endpoint,
    spec: &ReplicaSpec,
    status: &ReplicaStatus,
    now: Timestamp,
) -> Result<(), StoreError> {
    let uuid = Uuid::now_v7();
    let replica = Replica {
        id: ReplicaId::from_uuid(uuid),
        tenant_id: endpoint.tenant_id,
        project_id: endpoint.project_id,
        name: name(endpoint, uuid),
        generation: 1,
        created_at: now,
        updated_at: now,
        spec: spec.clone(),
        status: status.clone(),
    };
    let replica = tx.insert(&replica).await?;
    let text = format!("replica `{}` of endpoint `{}` was created", replica.name, endpoint.name);
    tx.record(about(fact("replica.create", text), None, Some(&replica), now));
    Ok(())
}

/// The endpoint's name and twelve random digits, short enough to be a name.
fn name(endpoint: &Endpoint, uuid: Uuid) -> String {
    let digits = uuid.simple().to_string();
    let suffix = &digits[digits.len() - 12..];
    let stem: String = endpoint.name.chars().take(NAME_MAX_CHARS - 1 - suffix.len()).collect();
    format!("{stem}-{suffix}")
}

async fn update(
    tx: &mut Tx,
    replicas: &[Replica],
    id: ReplicaId,
    status: &ReplicaStatus,
    now: Timestamp,
) -> Result<Replica, StoreError> {
    let Some(before) = replicas.iter().find(|replica| replica.id == id) else {
        return Err(StoreError::NotFound { kind: "replica", id: id.to_string() });
    };
    let after = tx.update_status_if::<Replica>(id, before.updated_at, status, now).await?;
    if before.status.state != status.state {
        let text = format!("replica `{}`: {}", before.name, status.reason.text);
        tx.record(about(fact("replica.state", text), Some(before), Some(&after), now));
        tracing::info!(replica_id = %id, state = ?status.state, reason = %status.reason.text, "replica changed");
    }
    Ok(after)
}

fn fact(action: &'static str, text: String) -> Fact<'static> {
    Fact { component: COMPONENT, action, text }
}
