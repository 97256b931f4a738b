//! Tenants: customers that are isolated and pay.

use clap::Subcommand;
use galerne_model::identity::{Tenant, TenantSpec};

use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne tenant`.
#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// List tenants
    List,
    /// Show one
    Show(ShowArguments),
    /// Make one
    Create {
        /// Its name
        name: String,
        /// Free text
        #[arg(long, default_value = "")]
        description: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Change its description
    Update {
        /// Its name or id
        name: String,
        /// Free text
        #[arg(long)]
        description: String,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Delete one that has nothing left in it
    Delete(DeleteArguments),
}

impl TenantCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => resources::list::<Tenant>(session, "no tenant can be seen with this key").await,
            Self::Show(show) => resources::show::<Tenant>(session, &show.name).await,
            Self::Create { name, description, change } => {
                resources::create::<Tenant>(session, &name, TenantSpec { description }, change).await?;
                session.output.note(format!("next: galerne project create NAME --tenant {name}"));
                Ok(())
            }
            Self::Update { name, description, change } => {
                resources::edit::<Tenant>(session, &name, change, "updated", |_| TenantSpec { description }).await
            }
            Self::Delete(delete) => {
                resources::delete::<Tenant>(session, &delete, |tenant| {
                    format!("tenant `{}` goes; its usage stays in the ledger", tenant.name)
                })
                .await
            }
        }
    }
}

impl Shown for Tenant {
    const LEVEL: Level = Level::Site;
    const COLUMNS: &'static [Column] = &[Column::Word("name"), Column::Text("description"), Column::Word("created")];

    fn cells(&self, _names: &Names) -> Vec<String> {
        vec![self.name.clone(), self.spec.description.clone(), display::instant(self.created_at)]
    }

    fn facts(&self, _names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("description", &self.spec.description);
        facts
    }
}
