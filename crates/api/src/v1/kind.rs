//! Which kinds of resources there are, by the name of their path.

use galerne_model::identity::{
    ApiKey, ApiKeySpec, ApiKeyStatus, Empty, Principal, PrincipalSpec, Project, ProjectSpec, RoleBinding,
    RoleBindingSpec, Tenant, TenantSpec,
};
use galerne_model::ids::{
    BudgetId, EndpointId, KeyId, ModelId, NodeId, PriceBookId, PrincipalId, ProjectId, PullId, ReplicaId,
    RoleBindingId, TenantId,
};
use galerne_model::inference::{
    Endpoint, EndpointSpec, EndpointStatus, Model, ModelSpec, ModelStatus, Pull, PullSpec, PullStatus, Replica,
    ReplicaSpec, ReplicaStatus,
};
use galerne_model::money::{Budget, BudgetSpec, BudgetStatus, PriceBook, PriceBookSpec};
use galerne_model::node::{Node, NodeSpec, NodeStatus};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::openapi::schema::ArrayBuilder;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// A kind of resource, kept at `/api/v1/<PLURAL>`.
pub trait Kind: Clone + Serialize + DeserializeOwned + PartialSchema + Send + Sync + 'static {
    /// One of them, as a type's name: `RoleBinding`.
    const NAME: &'static str;
    /// One of them, as a command's noun: `role-binding`.
    const NOUN: &'static str;
    /// Several, as in paths: `role-bindings`.
    const PLURAL: &'static str;
    /// Its id.
    type Id: Copy
        + Serialize
        + DeserializeOwned
        + std::fmt::Display
        + std::str::FromStr
        + ToSchema
        + Send
        + Sync
        + 'static;
    /// What is asked.
    type Spec: Clone + PartialEq + Serialize + DeserializeOwned + ToSchema + Send + Sync + 'static;
    /// What is seen.
    type Status: Clone + Serialize + DeserializeOwned + ToSchema + Send + Sync + 'static;
}

macro_rules! kinds {
    ($($resource:ident, $noun:literal, $plural:literal, $id:ty, $spec:ty, $status:ty;)*) => {$(
        impl Kind for $resource {
            const NAME: &'static str = stringify!($resource);
            const NOUN: &'static str = $noun;
            const PLURAL: &'static str = $plural;
            type Id = $id;
            type Spec = $spec;
            type Status = $status;
        }
    )*};
}

kinds! {
    Tenant, "tenant", "tenants", TenantId, TenantSpec, Empty;
    Project, "project", "projects", ProjectId, ProjectSpec, Empty;
    Principal, "principal", "principals", PrincipalId, PrincipalSpec, Empty;
    RoleBinding, "role-binding", "role-bindings", RoleBindingId, RoleBindingSpec, Empty;
    ApiKey, "key", "keys", KeyId, ApiKeySpec, ApiKeyStatus;
    Budget, "budget", "budgets", BudgetId, BudgetSpec, BudgetStatus;
    PriceBook, "price-book", "price-books", PriceBookId, PriceBookSpec, Empty;
    Model, "model", "models", ModelId, ModelSpec, ModelStatus;
    Pull, "pull", "pulls", PullId, PullSpec, PullStatus;
    Endpoint, "endpoint", "endpoints", EndpointId, EndpointSpec, EndpointStatus;
    Replica, "replica", "replicas", ReplicaId, ReplicaSpec, ReplicaStatus;
    Node, "node", "nodes", NodeId, NodeSpec, NodeStatus;
}

/// A reference to the schema of a kind, which the document keeps under the kind's own name.
pub fn resource_ref<K: Kind>() -> RefOr<Schema> {
    utoipa::openapi::Ref::from_schema_name(K::NAME).into()
}

/// A list of a kind.
pub fn resource_list<K: Kind>() -> RefOr<Schema> {
    ArrayBuilder::new().items(resource_ref::<K>()).into()
}
