//! Roles given to principals: who may do what, and where.

use clap::{Args, Subcommand, ValueEnum};
use galerne_api::error::Code;
use galerne_api::v1::Create;
use galerne_model::identity::{Principal, Project, Role, RoleBinding, RoleBindingSpec, Scope, Tenant};

use crate::commands::values::split_reference;
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, Level, RemovalArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne role`.
#[derive(Debug, Subcommand)]
pub enum RoleCommand {
    /// List who has which role where
    List,
    /// Give a role
    Grant {
        #[command(flatten)]
        binding: BindingArguments,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Take a role back
    Revoke {
        #[command(flatten)]
        binding: BindingArguments,
        #[command(flatten)]
        removal: RemovalArguments,
    },
}

/// Who, what, where.
#[derive(Debug, Clone, Args)]
pub struct BindingArguments {
    /// The principal, by name or id
    principal: String,
    /// The role
    #[arg(value_enum)]
    role: RoleArgument,
    /// Where it holds: site, tenant/NAME or project/NAME
    #[arg(long, value_name = "WHERE")]
    on: String,
}

/// A role.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum RoleArgument {
    /// Runs the site
    Operator,
    /// Everything inside a tenant or project, its money and members included
    Owner,
    /// Uses and changes resources of a project
    Member,
    /// Reads
    Viewer,
    /// Reads everything, events and ledger included; changes nothing
    Auditor,
}

impl RoleArgument {
    fn role(self) -> Role {
        match self {
            Self::Operator => Role::Operator,
            Self::Owner => Role::Owner,
            Self::Member => Role::Member,
            Self::Viewer => Role::Viewer,
            Self::Auditor => Role::Auditor,
        }
    }
}

impl RoleCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => resources::list::<RoleBinding>(session, "no role can be seen with this key").await,
            Self::Grant { binding, change } => grant(session, &binding, change).await,
            Self::Revoke { binding, removal } => revoke(session, &binding, removal).await,
        }
    }
}

async fn grant(session: &mut Session, arguments: &BindingArguments, change: ChangeArguments) -> Result<(), Failure> {
    let (principal, spec) = resolve(session, arguments).await?;
    let create = Create { name: binding_name(&principal, spec.role), tenant: None, project: None, spec: spec.clone() };
    let made: RoleBinding = match session.client()?.create(&create, change.dry_run()).await.map_err(Failure::from) {
        Err(failure) if failure.code() == Code::AlreadyExists => {
            let role = display::word(&spec.role);
            let text = format!("`{}` has the role `{role}` on {} already", arguments.principal, arguments.on);
            return Err(Failure::new(Code::AlreadyExists, text).hint("see who has which: galerne role list"));
        }
        made => made?,
    };
    said(session, &made, arguments, &format!("{} to", change.participle("given")))
}

async fn revoke(session: &mut Session, arguments: &BindingArguments, removal: RemovalArguments) -> Result<(), Failure> {
    let (_, spec) = resolve(session, arguments).await?;
    let bindings = session.client()?.list_all::<RoleBinding>(&session.reach().await?).await?;
    let Some(found) = bindings.iter().find(|binding| binding.spec == spec) else {
        let text = format!("`{}` has no such role on {}", arguments.principal, arguments.on);
        return Err(Failure::new(Code::NotFound, text).hint("see who has which: galerne role list"));
    };
    let role = display::word(&spec.role);
    let effect = format!("`{}` loses the role `{role}` on {}", arguments.principal, arguments.on);
    match resources::remove(session, found, removal, &effect).await? {
        Some(gone) => said(session, &gone, arguments, &format!("{} from", removal.change.participle("taken"))),
        None => Ok(()),
    }
}

/// The same for the same role given twice at one place, so that the second time is refused as already there; never that
/// of another principal, also where two tenants have one of the same name.
fn binding_name(principal: &Principal, role: Role) -> String {
    let random = principal.id.uuid().simple().to_string().split_off(20);
    let name: String = principal.name.chars().take(40).collect();
    format!("{name}.{}.{random}", display::word(&role))
}

fn said(session: &mut Session, binding: &RoleBinding, arguments: &BindingArguments, done: &str) -> Result<(), Failure> {
    let role = display::word(&binding.spec.role);
    session.output.done(format!("role `{role}` on {} {done} `{}`", arguments.on, arguments.principal));
    if session.is_json() { session.output.json(binding) } else { Ok(()) }
}

async fn resolve(session: &Session, arguments: &BindingArguments) -> Result<(Principal, RoleBindingSpec), Failure> {
    let scope = match split_reference(&arguments.on) {
        None if arguments.on == "site" => Scope::Site,
        Some(("tenant", name)) => Scope::Tenant { tenant_id: resources::find::<Tenant>(session, name).await?.id },
        Some(("project", name)) => {
            let project = resources::find::<Project>(session, name).await?;
            let tenant_id = project
                .tenant_id
                .ok_or_else(|| Failure::new(Code::AnswerInvalid, format!("project `{name}` belongs to no tenant")))?;
            Scope::Project { tenant_id, project_id: project.id }
        }
        None | Some(_) => {
            let text = format!("`{}` is not a place where a role can hold", arguments.on);
            return Err(Failure::usage(text).hint("write --on site, --on tenant/NAME or --on project/NAME"));
        }
    };
    let principal = resources::find::<Principal>(session, &arguments.principal).await?;
    let spec = RoleBindingSpec { principal_id: principal.id, role: arguments.role.role(), scope };
    Ok((principal, spec))
}

impl Shown for RoleBinding {
    const LEVEL: Level = Level::Tenant;
    const COLUMNS: &'static [Column] =
        &[Column::Word("principal"), Column::Word("role"), Column::Word("on"), Column::Word("since")];

    fn cells(&self, names: &Names) -> Vec<String> {
        let (principal, role) = (names.of(&self.spec.principal_id), display::word(&self.spec.role));
        vec![principal, role, place(self.spec.scope, names), display::instant(self.created_at)]
    }

    fn facts(&self, names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("principal", names.of(&self.spec.principal_id)).add("role", display::word(&self.spec.role));
        facts.add("on", place(self.spec.scope, names));
        facts
    }

    async fn look_up(session: &Session, names: &mut Names) -> Result<(), Failure> {
        session.names::<Principal>(names).await?;
        session.names::<Tenant>(names).await?;
        session.names::<Project>(names).await
    }
}

/// Where a role holds, as `--on` takes it.
pub(crate) fn place(scope: Scope, names: &Names) -> String {
    match scope {
        Scope::Site => "site".to_owned(),
        Scope::Tenant { tenant_id } => format!("tenant/{}", names.of(&tenant_id)),
        Scope::Project { project_id, .. } => format!("project/{}", names.of(&project_id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use galerne_model::identity::{Empty, PrincipalKind, PrincipalSpec};
    use galerne_model::ids::PrincipalId;
    use galerne_model::resource::check_name;

    fn principal(name: &str, random: u128) -> Principal {
        let spec = PrincipalSpec { kind: PrincipalKind::User, disabled: false, description: String::new() };
        Principal {
            id: PrincipalId::from_uuid(format!("019720000000700080000000{random:08x}").parse().expect("a UUID")),
            tenant_id: None,
            project_id: None,
            name: name.to_owned(),
            generation: 1,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            updated_at: jiff::Timestamp::UNIX_EPOCH,
            spec,
            status: Empty {},
        }
    }

    #[test]
    fn two_grants_share_a_name_only_when_they_are_the_same() {
        let longest = "a".repeat(63);
        let named = |name: &str, random, role| binding_name(&principal(name, random), role);
        assert_eq!(named("ada", 1, Role::Member), "ada.member.000000000001");
        let all = [
            named(&longest, 1, Role::Operator),
            named(&longest, 1, Role::Auditor),
            named(&longest, 2, Role::Operator),
            named("ada", 1, Role::Operator),
        ];
        let different: std::collections::BTreeSet<&String> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{all:?}");
        assert!(all.iter().all(|name| check_name(name).is_ok()), "{all:?}");
    }
}
