//! Tenants and projects.

use galerne_api::error::Code;
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::{
    ApiKey, Empty, Principal, Project, ProjectSpec, RoleBinding, Scope, ServiceTier, Tenant, TenantSpec,
};
use galerne_model::ids::{ProjectId, TenantId};
use galerne_model::inference::{Endpoint, Model, Pull, PullState};
use galerne_model::money::Budget;
use galerne_store::{Filter, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use super::{check_limits, check_model_limits, check_text};
use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed, scope};

impl Managed for Tenant {
    const RIGHTS: Noun = Noun::Tenant;
    const LEVEL: Level = Level::Site;

    fn mint(uuid: Uuid) -> TenantId {
        TenantId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> Empty {
        Empty {}
    }

    /// Who is inside may see it; only the site's people may change it.
    fn read_scope(&self) -> Scope {
        Scope::Tenant { tenant_id: self.id }
    }

    async fn check(_tx: &mut Tx, _caller: &Caller, draft: &Self, _before: Option<&TenantSpec>) -> Result<(), Refusal> {
        check_text("spec.description", &draft.spec.description)
    }

    async fn check_unused(tx: &mut Tx, _caller: &Caller, resource: &Self) -> Result<(), Refusal> {
        let inside = Filter::tenant(resource.id);
        if let Some(project) = tx.find::<Project>(&inside).await? {
            return Err(in_use(format!("project `{}` is still in it", project.name)));
        }
        if let Some(principal) = tx.find::<Principal>(&inside).await? {
            return Err(in_use(format!("principal `{}` is still in it", principal.name)));
        }
        if let Some(binding) = tx.find::<RoleBinding>(&inside).await? {
            return Err(in_use(format!("role binding `{}` is still in it", binding.name)));
        }
        match tx.find::<Budget>(&inside).await? {
            Some(budget) => Err(in_use(format!("budget `{}` still limits it", budget.name))),
            None => Ok(()),
        }
    }
}

impl Managed for Project {
    const RIGHTS: Noun = Noun::Project;
    const LEVEL: Level = Level::Tenant;

    fn mint(uuid: Uuid) -> ProjectId {
        ProjectId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> Empty {
        Empty {}
    }

    /// Who is inside may see it; the tenant owns it, so that a project cannot lift its own limits.
    fn read_scope(&self) -> Scope {
        scope(self.tenant_id, Some(self.id))
    }

    async fn check(_tx: &mut Tx, caller: &Caller, draft: &Self, before: Option<&ProjectSpec>) -> Result<(), Refusal> {
        check_text("spec.description", &draft.spec.description)?;
        let given = before.and_then(|before| before.service_tier).unwrap_or_default();
        // Priority is before everybody else of the site, so that the site's people give it.
        if draft.spec.service_tier.unwrap_or_default() > given.max(ServiceTier::Default)
            && !caller.can(Verb::Update, Noun::Tenant, Scope::Site)
        {
            let text = "priority is given by the operator of the site; hint: ask for `default` or `flex`";
            return Err(Refusal::invalid("spec.service_tier", text));
        }
        check_limits("spec.limits", draft.spec.limits)?;
        check_model_limits("spec.model_limits", &draft.spec.model_limits)
    }

    async fn check_unused(tx: &mut Tx, _caller: &Caller, resource: &Self) -> Result<(), Refusal> {
        let inside = Filter::project(resource.id);
        if let Some(endpoint) = tx.find::<Endpoint>(&inside).await? {
            return Err(in_use(format!("endpoint `{}` is still in it", endpoint.name)));
        }
        if let Some(model) = tx.find::<Model>(&inside).await? {
            return Err(in_use(format!("model `{}` is still in it", model.name)));
        }
        let pulls = tx.list_all::<Pull>(&inside).await?;
        if let Some(pull) = pulls
            .iter()
            .find(|pull| matches!(pull.status.state, PullState::Pending | PullState::Fetching | PullState::Importing))
        {
            return Err(in_use(format!("pull `{}` is still running in it", pull.name)));
        }
        // Before its keys: without one nobody can list or delete them any more.
        let open = tx.batches_open_in(resource.id).await?;
        if open > 0 {
            return Err(in_use(format!("{open} batches in it have not ended; hint: galerne batch list")));
        }
        let kept = tx.file_storage(resource.id).await?;
        if kept.files > 0 {
            let text = format!("it keeps {} files of {} bytes; hint: galerne file list", kept.files, kept.bytes);
            return Err(in_use(text));
        }
        let keys = tx.list_all::<ApiKey>(&inside).await?;
        if let Some(key) = keys.iter().find(|key| key.status.revoked_at.is_none()) {
            return Err(in_use(format!("key `{}` still spends in it", key.name)));
        }
        let bindings = tx.list_all::<RoleBinding>(&inside).await?;
        match bindings.first() {
            Some(binding) => Err(in_use(format!("role binding `{}` still holds in it", binding.name))),
            None => Ok(()),
        }
    }
}

/// Something still depends on it.
pub(crate) fn in_use(detail: String) -> Refusal {
    Refusal::new(Code::InUse, detail).hint("remove or change that first")
}
