//! Enrolling hosts: a node is known by the digest of its machine id, whatever it is called.

use galerne_model::ids::NodeId;
use galerne_model::node::{Node, NodeFacts, NodeSpec, NodeStatus};
use galerne_store::{Filter, Store, StoreError, retry};
use jiff::Timestamp;
use uuid::Uuid;

use crate::event::{Fact, about};

/// Enrols this host, or takes over its facts if it is known. Writes an event when it is new or its facts changed.
pub async fn enrol(
    store: &Store,
    name: &str,
    facts: &NodeFacts,
    zone: &str,
    now: Timestamp,
) -> Result<NodeId, StoreError> {
    retry(|| enrol_once(store, name, facts, zone, now)).await
}

async fn enrol_once(
    store: &Store,
    name: &str,
    facts: &NodeFacts,
    zone: &str,
    now: Timestamp,
) -> Result<NodeId, StoreError> {
    let mut tx = store.begin().await?;
    let nodes = tx.list_all::<Node>(&Filter::default()).await?;
    let status = NodeStatus { facts: facts.clone(), seen_at: now };
    let known = nodes.into_iter().find(|node| node.status.facts.machine_digest == facts.machine_digest);
    let id = match known {
        Some(before) => {
            let mut after = tx.update_status::<Node>(before.id, &status, now).await?;
            if after.spec.zone != zone {
                let spec = NodeSpec { zone: zone.to_owned(), ..after.spec.clone() };
                after = tx.update_spec::<Node>(after.id, after.generation, &spec, now).await?;
            }
            if before.status.facts != *facts || before.spec != after.spec {
                let text = format!("node `{}` was read again and has changed", after.name);
                tx.record(about(fact("node.refresh", text), Some(&before), Some(&after), now));
            }
            after.id
        }
        None => {
            let node = Node {
                id: NodeId::from_uuid(Uuid::now_v7()),
                tenant_id: None,
                project_id: None,
                name: name.to_owned(),
                generation: 1,
                created_at: now,
                updated_at: now,
                spec: NodeSpec { cordoned: false, zone: zone.to_owned() },
                status,
            };
            let node = tx.insert(&node).await?;
            let text = format!("node `{}` was enrolled", node.name);
            tx.record(about(fact("node.enrol", text), None, Some(&node), now));
            node.id
        }
    };
    tx.commit().await?;
    Ok(id)
}

fn fact(action: &'static str, text: String) -> Fact<'static> {
    Fact { component: "enrolment", action, text }
}
