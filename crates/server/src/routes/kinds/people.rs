//! Principals: users and service accounts.

use galerne_core::authorize::Noun;
use galerne_model::identity::{ApiKey, Empty, Principal, PrincipalSpec, RoleBinding};
use galerne_model::ids::PrincipalId;
use galerne_store::{Filter, Tx};
use jiff::Timestamp;
use uuid::Uuid;

use super::check_text;
use super::tenancy::in_use;
use crate::http::caller::Caller;
use crate::http::refusal::Refusal;
use crate::routes::managed::{Level, Managed};

impl Managed for Principal {
    const RIGHTS: Noun = Noun::Principal;
    const LEVEL: Level = Level::Tenant;

    fn mint(uuid: Uuid) -> PrincipalId {
        PrincipalId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> Empty {
        Empty {}
    }

    async fn check(
        _tx: &mut Tx,
        caller: &Caller,
        draft: &Self,
        _before: Option<&PrincipalSpec>,
    ) -> Result<(), Refusal> {
        if draft.spec.disabled && draft.id == caller.principal.id {
            return Err(Refusal::invalid("spec.disabled", "you would lock yourself out: ask somebody else to do it"));
        }
        check_text("spec.description", &draft.spec.description)
    }

    async fn check_unused(tx: &mut Tx, caller: &Caller, resource: &Self) -> Result<(), Refusal> {
        if resource.id == caller.principal.id {
            return Err(in_use("it is the principal you are calling as".to_owned()));
        }
        let keys = tx.list_all::<ApiKey>(&Filter::default()).await?;
        if let Some(key) =
            keys.iter().find(|key| key.spec.principal_id == resource.id && key.status.revoked_at.is_none())
        {
            return Err(in_use(format!("key `{}` acts for it", key.name)));
        }
        let bindings = tx.list_all::<RoleBinding>(&Filter::default()).await?;
        match bindings.iter().find(|binding| binding.spec.principal_id == resource.id) {
            Some(binding) => Err(in_use(format!("role binding `{}` gives it a role", binding.name))),
            None => Ok(()),
        }
    }

    fn is_identity() -> bool {
        true
    }
}
