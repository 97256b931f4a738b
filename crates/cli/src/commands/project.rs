//! Projects: owners of resources inside a tenant.

use clap::Subcommand;
use galerne_model::identity::{Project, ProjectSpec, RateLimits, Tenant};

use crate::commands::values::{LimitArguments, ModelLimitArgument, TierArgument, limits_text, model_limits_text};
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne project`.
#[derive(Debug, Subcommand)]
pub enum ProjectCommand {
    /// List projects
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
        limits: LimitArguments,
        /// Limits for one model, such as MODEL:requests=60,tokens=20000,concurrent=4; may be given several times
        #[arg(long = "model-limit", value_name = "LIMIT")]
        model_limits: Vec<ModelLimitArgument>,
        /// The highest tier its keys may ask for, and what they get when they ask for none [default: default]
        #[arg(long, value_enum, value_name = "TIER")]
        tier: Option<TierArgument>,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Change its description or limits; a limit of 0 takes it away
    Update {
        /// Its name or id
        name: String,
        /// Free text
        #[arg(long)]
        description: Option<String>,
        #[command(flatten)]
        limits: LimitArguments,
        /// Limits for one model, such as MODEL:requests=60,tokens=20000,concurrent=4; MODEL:none takes them away
        #[arg(long = "model-limit", value_name = "LIMIT")]
        model_limits: Vec<ModelLimitArgument>,
        /// The highest tier its keys may ask for, and what they get when they ask for none
        #[arg(long, value_enum, value_name = "TIER")]
        tier: Option<TierArgument>,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Delete one that has nothing left in it
    Delete(DeleteArguments),
}

impl ProjectCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => {
                resources::list::<Project>(session, "no project yet; make one: galerne project create NAME").await
            }
            Self::Show(show) => resources::show::<Project>(session, &show.name).await,
            Self::Create { name, description, limits, model_limits, tier, change } => {
                let spec = ProjectSpec {
                    description,
                    limits: limits.over(RateLimits::default()),
                    model_limits: ModelLimitArgument::over(model_limits, Vec::new()),
                    service_tier: tier.map(TierArgument::tier),
                };
                resources::create::<Project>(session, &name, spec, change).await?;
                let tenant =
                    session.place.tenant.as_ref().map_or_else(String::new, |tenant| format!(" --tenant {tenant}"));
                session.output.note(format!("next: galerne key create NAME --project {name}{tenant}"));
                Ok(())
            }
            Self::Update { name, description, limits, model_limits, tier, change } => {
                let edit = |spec: ProjectSpec| ProjectSpec {
                    description: description.unwrap_or(spec.description),
                    limits: limits.over(spec.limits),
                    model_limits: ModelLimitArgument::over(model_limits, spec.model_limits),
                    service_tier: tier.map(TierArgument::tier).or(spec.service_tier),
                };
                resources::edit::<Project>(session, &name, change, "updated", edit).await
            }
            Self::Delete(delete) => {
                resources::delete::<Project>(session, &delete, |project| {
                    format!("project `{}` goes, and its keys stop working; its usage stays in the ledger", project.name)
                })
                .await
            }
        }
    }
}

impl Shown for Project {
    const LEVEL: Level = Level::Tenant;
    const COLUMNS: &'static [Column] =
        &[Column::Word("name"), Column::Word("tenant"), Column::Text("limits"), Column::Text("description")];

    fn cells(&self, names: &Names) -> Vec<String> {
        let tenant = self.tenant_id.map_or_else(display::dash, |id| names.of(&id));
        vec![self.name.clone(), tenant, limits_text(self.spec.limits), self.spec.description.clone()]
    }

    fn facts(&self, names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("description", &self.spec.description);
        facts.maybe("tenant", self.tenant_id.map(|id| names.of(&id)));
        facts.add("limits", limits_text(self.spec.limits));
        facts.maybe("limits by model", model_limits_text(&self.spec.model_limits));
        facts.maybe("service tier", self.spec.service_tier.map(|tier| tier.as_str().to_owned()));
        facts
    }

    async fn look_up(session: &Session, names: &mut Names) -> Result<(), Failure> {
        session.names::<Tenant>(names).await
    }
}
