//! Principals: users and service accounts.

use clap::{Subcommand, ValueEnum};
use galerne_model::identity::{Principal, PrincipalKind, PrincipalSpec};

use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne principal`.
#[derive(Debug, Subcommand)]
pub enum PrincipalCommand {
    /// List users and service accounts
    List,
    /// Show one
    Show(ShowArguments),
    /// Make one
    Create {
        /// Its name
        name: String,
        /// Person or program
        #[arg(long, value_enum, default_value_t = KindArgument::User)]
        kind: KindArgument,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Refuse all its keys, until it is enabled
    Disable {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Accept its keys again
    Enable {
        /// Its name or id
        name: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Delete one
    Delete(DeleteArguments),
}

/// Person or program.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KindArgument {
    /// A person
    User,
    /// A program
    ServiceAccount,
}

impl PrincipalCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => resources::list::<Principal>(session, "no principal can be seen with this key").await,
            Self::Show(show) => resources::show::<Principal>(session, &show.name).await,
            Self::Create { name, kind, description, change } => {
                let kind = match kind {
                    KindArgument::User => PrincipalKind::User,
                    KindArgument::ServiceAccount => PrincipalKind::ServiceAccount,
                };
                let spec = PrincipalSpec { kind, disabled: false, description };
                resources::create::<Principal>(session, &name, spec, change).await?;
                session.output.note(format!("next: galerne role grant {name} member --on project/NAME"));
                Ok(())
            }
            Self::Disable { name, change } => {
                let disabled = |spec| PrincipalSpec { disabled: true, ..spec };
                resources::edit::<Principal>(session, &name, change, "disabled", disabled).await
            }
            Self::Enable { name, change } => {
                let enabled = |spec| PrincipalSpec { disabled: false, ..spec };
                resources::edit::<Principal>(session, &name, change, "enabled", enabled).await
            }
            Self::Delete(delete) => {
                resources::delete::<Principal>(session, &delete, |principal| {
                    format!("principal `{}` goes, with its roles; its keys stop working", principal.name)
                })
                .await
            }
        }
    }
}

impl Shown for Principal {
    const LEVEL: Level = Level::Tenant;
    const COLUMNS: &'static [Column] =
        &[Column::Word("name"), Column::Word("kind"), Column::Word("state"), Column::Text("description")];

    fn cells(&self, _names: &Names) -> Vec<String> {
        vec![self.name.clone(), display::word(&self.spec.kind), state(self), self.spec.description.clone()]
    }

    fn facts(&self, _names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("kind", display::word(&self.spec.kind)).add("state", state(self));
        facts.add("description", &self.spec.description);
        facts
    }
}

fn state(principal: &Principal) -> String {
    if principal.spec.disabled { "disabled" } else { "enabled" }.to_owned()
}
