//! Budgets. A budget is set by whoever is above its subject, so that nobody lifts their own.

use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::{ApiKey, Project, Scope, Tenant};
use galerne_model::ids::BudgetId;
use galerne_model::money::{Budget, BudgetSpec, BudgetStatus, BudgetSubject, Commodity};
use galerne_model::resource::Resource;
use galerne_store::{Reader, StoreError, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use super::JSON_INTEGER_MAX;
use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed, owner_scope, scope};

/// Thresholds of one budget: each is an event per commodity and period.
const ALERTS_MAX: usize = 10;

impl Managed for Budget {
    const RIGHTS: Noun = Noun::Budget;
    const LEVEL: Level = Level::Tenant;

    fn mint(uuid: Uuid) -> BudgetId {
        BudgetId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> BudgetStatus {
        BudgetStatus::default()
    }

    fn change_scope(&self) -> Scope {
        match self.spec.subject {
            BudgetSubject::Tenant { .. } => Scope::Site,
            BudgetSubject::Project { .. } => scope(self.tenant_id, None),
            BudgetSubject::Key { .. } => owner_scope(self),
        }
    }

    async fn settle_owner(
        tx: &mut Tx,
        caller: &Caller,
        draft: &mut Resource<BudgetId, BudgetSpec, BudgetStatus>,
    ) -> Result<(), Refusal> {
        let found = match draft.spec.subject {
            BudgetSubject::Tenant { tenant_id } => {
                one::<Tenant>(tx, tenant_id).await?.map(|tenant| (Some(tenant.id), None))
            }
            BudgetSubject::Project { project_id } => {
                one::<Project>(tx, project_id).await?.map(|project| (project.tenant_id, Some(project.id)))
            }
            BudgetSubject::Key { key_id } => {
                one::<ApiKey>(tx, key_id).await?.map(|key| (key.tenant_id, key.project_id))
            }
        };
        // What the caller may not see is told like what does not exist.
        let visible = found.filter(|(tenant_id, project_id)| {
            caller.can(Verb::Read, Noun::Budget, scope(*tenant_id, *project_id))
                || caller.can(Verb::Create, Noun::Budget, scope(*tenant_id, *project_id))
        });
        let Some(owner) = visible else {
            return Err(Refusal::invalid("spec.subject", "there is no such tenant, project or key"));
        };
        (draft.tenant_id, draft.project_id) = owner;
        Ok(())
    }

    async fn check(_tx: &mut Tx, _caller: &Caller, draft: &Self, before: Option<&BudgetSpec>) -> Result<(), Refusal> {
        let limits = draft.spec.limits();
        if let Some((commodity, _)) = limits.iter().find(|(_, limit)| !(0..=JSON_INTEGER_MAX).contains(limit)) {
            return Err(Refusal::invalid(limit_field(commodity), "a limit is not negative and stays below 2^53"));
        }
        if limits.iter().next().is_none() {
            return Err(Refusal::invalid(
                "spec",
                "a budget limits money, energy or carbon: none of the three is limited",
            ));
        }
        let at = &draft.spec.alert_at;
        let is_sound = at.iter().all(|percent| (1..=100).contains(percent)) && at.is_sorted_by(|a, b| a < b);
        if !is_sound || at.len() > ALERTS_MAX {
            let text = format!("alerts are at most {ALERTS_MAX} whole per cents from 1 to 100, rising");
            return Err(Refusal::invalid("spec.alert_at", &text));
        }
        if before.is_some_and(|before| before.subject != draft.spec.subject || before.period != draft.spec.period) {
            Err(Refusal::invalid("spec", "a budget keeps its subject and its period: make another one"))
        } else {
            Ok(())
        }
    }
}

const fn limit_field(commodity: Commodity) -> &'static str {
    match commodity {
        Commodity::Money => "spec.limit_micros",
        Commodity::Energy => "spec.limit_millijoules",
        Commodity::Carbon => "spec.limit_co2e_micrograms",
    }
}

async fn one<K: Managed>(tx: &mut Reader, id: <K as galerne_store::Kind>::Id) -> Result<Option<K>, StoreError> {
    match tx.get::<K>(id).await {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
