//! Role bindings. Nobody gives or takes away more than they have: `core::authorize::may_grant`.

use galerne_api::error::Code;
use galerne_core::authorize::{self, Noun, Verb};
use galerne_model::identity::{Empty, Principal, Project, Role, RoleBinding, RoleBindingSpec, Scope, Tenant};
use galerne_model::ids::{RoleBindingId, TenantId};
use galerne_model::resource::Resource;
use galerne_store::{Filter, StoreError, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use crate::http::caller::{About, Caller};
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed};

impl Managed for RoleBinding {
    const RIGHTS: Noun = Noun::RoleBinding;
    const LEVEL: Level = Level::Tenant;

    fn mint(uuid: Uuid) -> RoleBindingId {
        RoleBindingId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> Empty {
        Empty {}
    }

    fn read_scope(&self) -> Scope {
        self.spec.scope
    }

    fn change_scope(&self) -> Scope {
        self.spec.scope
    }

    async fn settle_owner(
        _tx: &mut Tx,
        _caller: &Caller,
        draft: &mut Resource<RoleBindingId, RoleBindingSpec, Empty>,
    ) -> Result<(), Refusal> {
        (draft.tenant_id, draft.project_id) = match draft.spec.scope {
            Scope::Site => (None, None),
            Scope::Tenant { tenant_id } => (Some(tenant_id), None),
            Scope::Project { tenant_id, project_id } => (Some(tenant_id), Some(project_id)),
        };
        Ok(())
    }

    async fn check(
        tx: &mut Tx,
        caller: &Caller,
        draft: &Self,
        before: Option<&RoleBindingSpec>,
    ) -> Result<(), Refusal> {
        may_grant(caller, draft, &draft.spec, "grant")?;
        if let Some(before) = before {
            may_grant(caller, draft, before, "take away")?;
            if before.scope != draft.spec.scope {
                return Err(Refusal::invalid("spec.scope", "a binding keeps its scope: make another one"));
            }
            if is_operator(before) && !is_operator(&draft.spec) {
                keep_one_operator(tx, draft.id).await?;
            }
        }
        let tenant_id = check_scope(tx, draft.spec.scope).await?;
        check_principal(tx, caller, &draft.spec, tenant_id).await?;
        check_single(tx, draft).await
    }

    async fn check_unused(tx: &mut Tx, caller: &Caller, resource: &Self) -> Result<(), Refusal> {
        may_grant(caller, resource, &resource.spec, "take away")?;
        if is_operator(&resource.spec) { keep_one_operator(tx, resource.id).await } else { Ok(()) }
    }

    fn is_identity() -> bool {
        true
    }
}

fn may_grant(caller: &Caller, binding: &RoleBinding, grant: &RoleBindingSpec, verb: &str) -> Result<(), Refusal> {
    let about = About { noun: "role-binding", verb, name: &binding.name, id: Some(binding.id.to_string()) };
    authorize::may_grant(caller.bindings(), caller.scopes(), grant)
        .map_err(|denial| caller.forbid(&denial, grant.scope, &about))
}

fn is_operator(spec: &RoleBindingSpec) -> bool {
    spec.role == Role::Operator && spec.scope == Scope::Site
}

/// A site without an operator could never get one again.
async fn keep_one_operator(tx: &mut Tx, leaving: RoleBindingId) -> Result<(), Refusal> {
    let all = tx.list_all::<RoleBinding>(&Filter::default()).await?;
    if all.iter().any(|binding| binding.id != leaving && is_operator(&binding.spec)) {
        return Ok(());
    }
    Err(Refusal::new(Code::InUse, "it is the last one that makes an operator")
        .hint("give the role to somebody else first"))
}

async fn check_scope(tx: &mut Tx, scope: Scope) -> Result<Option<TenantId>, Refusal> {
    let (tenant_id, project_id) = match scope {
        Scope::Site => return Ok(None),
        Scope::Tenant { tenant_id } => (tenant_id, None),
        Scope::Project { tenant_id, project_id } => (tenant_id, Some(project_id)),
    };
    match tx.get::<Tenant>(tenant_id).await {
        Err(StoreError::NotFound { .. }) => {
            return Err(Refusal::invalid("spec.scope.tenant_id", "there is no such tenant"));
        }
        other => other?,
    };
    if let Some(project_id) = project_id {
        match tx.get_within::<Project>(project_id, &Filter::tenant(tenant_id)).await {
            Err(StoreError::NotFound { .. }) => {
                return Err(Refusal::invalid("spec.scope.project_id", "the tenant has no such project"));
            }
            other => other?,
        };
    }
    Ok(Some(tenant_id))
}

/// The same role given twice would still be there after it was taken away once.
async fn check_single(tx: &mut Tx, draft: &RoleBinding) -> Result<(), Refusal> {
    let beside = Filter { tenant_id: draft.tenant_id, project_id: draft.project_id, name: None };
    let all = tx.list_all::<RoleBinding>(&beside).await?;
    match all.iter().find(|binding| binding.id != draft.id && binding.spec == draft.spec) {
        Some(binding) => Err(Refusal::new(
            Code::AlreadyExists,
            format!("role binding `{}` gives the principal this role there already", binding.name),
        )),
        None => Ok(()),
    }
}

/// Roles in a tenant go to its own principals; only operators let others in.
async fn check_principal(
    tx: &mut Tx,
    caller: &Caller,
    spec: &RoleBindingSpec,
    tenant_id: Option<TenantId>,
) -> Result<(), Refusal> {
    let missing = || Refusal::invalid("spec.principal_id", "there is no such principal");
    let principal = match tx.get::<Principal>(spec.principal_id).await {
        Err(StoreError::NotFound { .. }) => return Err(missing()),
        other => other?,
    };
    let at_home = principal.tenant_id.is_some() && principal.tenant_id == tenant_id;
    if at_home || caller.can(Verb::Create, Noun::RoleBinding, Scope::Site) { Ok(()) } else { Err(missing()) }
}
