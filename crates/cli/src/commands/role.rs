//! Roles given to principals: who may do what, and where.

use clap::{Args, Subcommand, ValueEnum};
use galerne_api::client::DryRun;
use galerne_api::v1::Create;
use galerne_model::identity::{Principal, Project, Role, RoleBinding, RoleBindingSpec, Scope, Tenant};

use crate::commands::values::split_reference;
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, Level, Shown};
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
        /// Do not ask
        #[arg(long, short = 'y')]
        yes: bool,
        #[command(flatten)]
        change: ChangeArguments,
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
            Self::Revoke { binding, yes, change } => revoke(session, &binding, yes, change).await,
        }
    }
}

async fn grant(session: &mut Session, arguments: &BindingArguments, change: ChangeArguments) -> Result<(), Failure> {
    let spec = resolve(session, arguments).await?;
    let role = display::word(&spec.role);
    // The name says what it is, so that granting twice is refused as already there.
    let place = arguments.on.replace('/', ".");
    let name: String = format!("{}.{role}.{place}", arguments.principal).chars().take(63).collect();
    let create = Create { name, tenant: None, project: None, spec };
    let made: RoleBinding = session.client()?.create(&create, change.dry_run()).await?;
    let done = change.participle("given");
    session.output.done(format!("role `{role}` on {} {done} to `{}`", arguments.on, arguments.principal));
    if session.is_json() { session.output.json(&made) } else { Ok(()) }
}

async fn revoke(
    session: &mut Session,
    arguments: &BindingArguments,
    yes: bool,
    change: ChangeArguments,
) -> Result<(), Failure> {
    let spec = resolve(session, arguments).await?;
    let client = session.client()?;
    let bindings = client.list_all::<RoleBinding>(&session.reach().await?).await?;
    let Some(found) = bindings.iter().find(|binding| binding.spec == spec) else {
        let text = format!("`{}` has no such role on {}", arguments.principal, arguments.on);
        return Err(Failure::new(galerne_api::error::Code::NotFound, text).hint("see who has which: galerne role list"));
    };
    let role = display::word(&spec.role);
    let effect = format!("`{}` loses the role `{role}` on {}", arguments.principal, arguments.on);
    if change.dry_run() == DryRun::No && !session.output.may_go_on(&effect, yes)? {
        return Ok(());
    }
    let gone: RoleBinding = client.delete(&found.id.to_string(), found.generation, change.dry_run()).await?;
    let done = change.participle("taken");
    session.output.done(format!("role `{role}` on {} {done} from `{}`", arguments.on, arguments.principal));
    if session.is_json() { session.output.json(&gone) } else { Ok(()) }
}

async fn resolve(session: &Session, arguments: &BindingArguments) -> Result<RoleBindingSpec, Failure> {
    let scope = match split_reference(&arguments.on) {
        None if arguments.on == "site" => Scope::Site,
        Some(("tenant", name)) => Scope::Tenant { tenant_id: resources::find::<Tenant>(session, name).await?.id },
        Some(("project", name)) => {
            let project = resources::find::<Project>(session, name).await?;
            let tenant_id = project.tenant_id.ok_or_else(|| {
                Failure::new(galerne_api::error::Code::AnswerInvalid, format!("project `{name}` belongs to no tenant"))
            })?;
            Scope::Project { tenant_id, project_id: project.id }
        }
        None | Some(_) => {
            let text = format!("`{}` is not a place where a role can hold", arguments.on);
            return Err(Failure::usage(text).hint("write --on site, --on tenant/NAME or --on project/NAME"));
        }
    };
    let principal = resources::find::<Principal>(session, &arguments.principal).await?;
    Ok(RoleBindingSpec { principal_id: principal.id, role: arguments.role.role(), scope })
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
        resources::common_facts(&mut facts, self);
        facts
    }

    fn label(&self) -> &str {
        &self.name
    }

    fn reference(&self) -> String {
        self.id.to_string()
    }

    fn generation(&self) -> i64 {
        self.generation
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
