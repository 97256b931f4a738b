//! Nodes, and the replicas on them.

use galerne_core::authorize::Noun;
use galerne_model::ids::{NodeId, ReplicaId};
use galerne_model::inference::{Replica, ReplicaState, ReplicaStatus};
use galerne_model::node::{Node, NodeFacts, NodeSpec, NodeStatus};
use galerne_model::reason::Reason;
use galerne_store::Tx;
use jiff::Timestamp;
use uuid::Uuid;

use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed};

impl Managed for Node {
    const RIGHTS: Noun = Noun::Node;
    const LEVEL: Level = Level::Site;

    fn mint(uuid: Uuid) -> NodeId {
        NodeId::from_uuid(uuid)
    }

    fn initial(now: Timestamp) -> NodeStatus {
        NodeStatus { facts: NodeFacts::default(), seen_at: now }
    }

    async fn check(_tx: &mut Tx, _caller: &Caller, draft: &Self, _before: Option<&NodeSpec>) -> Result<(), Refusal> {
        let zone = &draft.spec.zone;
        let sound = (2..=16).contains(&zone.len())
            && zone.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'-');
        if sound {
            Ok(())
        } else {
            Err(Refusal::invalid("spec.zone", "use the code of a grid zone, such as `FR` or `SE-SE3`"))
        }
    }
}

impl Managed for Replica {
    const RIGHTS: Noun = Noun::Replica;
    const LEVEL: Level = Level::Project;

    fn mint(uuid: Uuid) -> ReplicaId {
        ReplicaId::from_uuid(uuid)
    }

    fn initial(now: Timestamp) -> ReplicaStatus {
        let reason = Reason::blocks("replica_starting", "it was just asked for");
        ReplicaStatus {
            state: ReplicaState::Starting,
            reason,
            url: None,
            context_tokens: None,
            sequences: None,
            abilities: None,
            restarts: 0,
            deadline_at: None,
            since: now,
        }
    }
}
