//! What the generic routes need to know of a kind of resource.

use std::future::Future;

use galerne_api::v1::Kind as ApiKind;
use galerne_core::authorize::Noun;
use galerne_model::identity::Scope;
use galerne_model::ids::{ProjectId, TenantId};
use galerne_model::resource::Resource;
use galerne_store::{Kind as StoreKind, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use crate::http::caller::Caller;
use crate::http::refusal::Refusal;

pub(crate) type Id<K> = <K as ApiKind>::Id;
pub(crate) type Spec<K> = <K as ApiKind>::Spec;
pub(crate) type Status<K> = <K as ApiKind>::Status;

/// Who owns resources of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The site.
    Site,
    /// A tenant.
    Tenant,
    /// A project.
    Project,
}

/// A kind that the generic routes serve.
pub(crate) trait Managed: ApiKind + StoreKind<Id = Id<Self>, Spec = Spec<Self>, Status = Status<Self>> {
    /// Its word in `core::authorize`.
    const RIGHTS: Noun;
    /// Who owns it.
    const LEVEL: Level;

    /// Its id from a fresh UUID.
    fn mint(uuid: Uuid) -> Id<Self>;

    /// Its status before anything was seen.
    fn initial(now: Timestamp) -> Status<Self>;

    /// The scope at which reading it is judged.
    fn read_scope(&self) -> Scope {
        owner_scope(self.resource())
    }

    /// The scope at which changing it is judged: that of its owner.
    fn change_scope(&self) -> Scope {
        owner_scope(self.resource())
    }

    /// Sets tenant and project where the spec decides them, and in the status what the caller's rights decide.
    fn settle_owner(
        _tx: &mut Tx,
        _caller: &Caller,
        _draft: &mut Resource<Id<Self>, Spec<Self>, Status<Self>>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Ok(()))
    }

    /// Checks what is asked: values, references, rights beyond the verb. `before` is the spec that is replaced.
    fn check(
        _tx: &mut Tx,
        _caller: &Caller,
        _draft: &Self,
        _before: Option<&Spec<Self>>,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether nothing depends on it.
    fn check_unused(
        _tx: &mut Tx,
        _caller: &Caller,
        _resource: &Self,
    ) -> impl Future<Output = Result<(), Refusal>> + Send {
        std::future::ready(Ok(()))
    }

    /// As callers see it.
    fn shown(self) -> Self {
        self
    }

    /// Whether a change must be in force for authentication before it is answered.
    fn is_identity() -> bool {
        false
    }
}

/// The scope of a resource's owner.
pub(crate) fn owner_scope<I, S, T>(resource: &Resource<I, S, T>) -> Scope {
    scope(resource.tenant_id, resource.project_id)
}

/// The narrowest scope that is named.
pub(crate) fn scope(tenant_id: Option<TenantId>, project_id: Option<ProjectId>) -> Scope {
    match (tenant_id, project_id) {
        (Some(tenant_id), Some(project_id)) => Scope::Project { tenant_id, project_id },
        (Some(tenant_id), None) => Scope::Tenant { tenant_id },
        (None, _) => Scope::Site,
    }
}
