//! API keys. A secret is shown once, when it is made, and never again.

use clap::{Args, Subcommand, ValueEnum};
use galerne_api::client::DryRun;
use galerne_api::v1::Create;
use galerne_api::v1::identity::{KeyCreated, RotateKey, Whoami};
use galerne_model::identity::{ApiKey, ApiKeySpec, KeyScope, Principal, RateLimits};
use jiff::Timestamp;

use crate::commands::values::{
    Instant, LimitArguments, ModelLimitArgument, Span, TierArgument, limits_text, model_limits_text,
};
use crate::display;
use crate::failure::Failure;
use crate::resources::{self, ChangeArguments, DeleteArguments, Level, ShowArguments, Shown};
use crate::session::{Names, Session};
use crate::table::{Column, Facts};

/// Verbs of `galerne key`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// List keys, without their secrets
    List,
    /// Show one, without its secret
    Show(ShowArguments),
    /// Make one; its secret is printed once
    Create(CreateArguments),
    /// Replace one by a new one with the same rights
    Rotate {
        /// Its name or id
        name: String,
        /// How long the old one still works, such as 1h
        #[arg(long, value_name = "LENGTH", default_value = "0s")]
        overlap: Span,
        #[command(flatten)]
        change: ChangeArguments,
    },
    /// Stop one for ever
    Revoke(DeleteArguments),
}

/// Options of `galerne key create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// Its name
    name: String,
    /// Who acts when it is used, by name or id [default: yourself]
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// What it may be used for; may be given several times
    #[arg(long = "scope", value_enum, value_name = "SCOPE", default_values = ["inference", "read"])]
    scopes: Vec<ScopeArgument>,
    /// When it stops working: a date, a time, or a length such as 90d
    #[arg(long, value_name = "WHEN")]
    expires: Option<Instant>,
    #[command(flatten)]
    limits: LimitArguments,
    /// Limits for one model, such as MODEL:requests=60,tokens=20000,concurrent=4; may be given several times
    #[arg(long = "model-limit", value_name = "LIMIT")]
    model_limits: Vec<ModelLimitArgument>,
    /// The highest tier it may ask for, and what it gets when it asks for none [default: its project's]
    #[arg(long, value_enum, value_name = "TIER")]
    tier: Option<TierArgument>,
    #[command(flatten)]
    change: ChangeArguments,
}

/// What a key may be used for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ScopeArgument {
    /// Call models
    Inference,
    /// Read resources
    Read,
    /// Change resources
    Write,
    /// Change identities, keys, budgets, prices
    Admin,
    /// Be a gateway: galerne gateway --key-file
    Gateway,
}

impl ScopeArgument {
    fn scope(self) -> KeyScope {
        match self {
            Self::Inference => KeyScope::Inference,
            Self::Read => KeyScope::Read,
            Self::Write => KeyScope::Write,
            Self::Admin => KeyScope::Admin,
            Self::Gateway => KeyScope::Gateway,
        }
    }
}

impl KeyCommand {
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::List => resources::list::<ApiKey>(session, "no key here; make one: galerne key create NAME").await,
            Self::Show(show) => resources::show::<ApiKey>(session, &show.name).await,
            Self::Create(arguments) => create(session, arguments).await,
            Self::Rotate { name, overlap, change } => rotate(session, &name, overlap, change).await,
            Self::Revoke(delete) => revoke(session, &delete).await,
        }
    }
}

async fn create(session: &mut Session, arguments: CreateArguments) -> Result<(), Failure> {
    let client = session.client()?;
    let principal_id = match &arguments.principal {
        Some(name) => resources::find::<Principal>(session, name).await?.id,
        None => client.read::<Whoami>("/api/v1/whoami", &[]).await?.principal.id,
    };
    let spec = ApiKeySpec {
        principal_id,
        scopes: arguments.scopes.iter().map(|scope| scope.scope()).collect(),
        expires_at: arguments.expires.map(|expires| expires.after(Timestamp::now())),
        limits: arguments.limits.over(RateLimits::default()),
        model_limits: ModelLimitArgument::over(arguments.model_limits, Vec::new()),
        service_tier: arguments.tier.map(TierArgument::tier),
    };
    let (tenant, project) = session.owner(Level::Project);
    let body = Create { name: arguments.name, tenant, project, spec };
    let path = "/api/v1/keys";
    let made: KeyCreated = client.write(reqwest::Method::POST, path, arguments.change.dry_run(), Some(&body)).await?;
    write_created(session, &made, &arguments.change.participle("created"))
}

async fn rotate(session: &mut Session, name: &str, overlap: Span, change: ChangeArguments) -> Result<(), Failure> {
    let client = session.client()?;
    let seen = resources::find::<ApiKey>(session, name).await?;
    let overlap_seconds = u32::try_from(overlap.0.as_secs()).unwrap_or(u32::MAX);
    let body = RotateKey { generation: Some(seen.generation), overlap_seconds };
    let path = format!("/api/v1/keys/{}/rotate", seen.id);
    let made: KeyCreated = client.write(reqwest::Method::POST, &path, change.dry_run(), Some(&body)).await?;
    write_created(session, &made, &change.participle("made in its place"))?;
    if change.dry_run() == DryRun::Yes {
        return Ok(());
    }
    if overlap_seconds == 0 {
        session.output.note("the old one has stopped working");
    } else {
        session.output.note(format!("the old one works for {} more", display::duration(overlap.0)));
    }
    Ok(())
}

fn write_created(session: &mut Session, made: &KeyCreated, done: &str) -> Result<(), Failure> {
    session.output.done(format!("key `{}` {done}", made.key.name));
    if session.is_json() {
        return session.output.json(made);
    }
    let Some(secret) = &made.secret else { return Ok(()) };
    session.output.note("this is shown once; keep it like a password:");
    session.output.line(secret)
}

async fn revoke(session: &mut Session, arguments: &DeleteArguments) -> Result<(), Failure> {
    let seen = resources::find::<ApiKey>(session, &arguments.name).await?;
    let used = seen.status.last_used_at.map_or_else(
        || "it was never used".to_owned(),
        |at| format!("it was last used {} ago", display::duration(Timestamp::now().duration_since(at))),
    );
    let effect = format!("key `{}` (…{}) stops working at once and for ever; {used}", seen.name, seen.status.last_four);
    match resources::remove(session, &seen, arguments.removal, &effect).await? {
        Some(gone) => resources::said(session, &gone, &arguments.removal.change.participle("revoked")),
        None => Ok(()),
    }
}

impl Shown for ApiKey {
    const LEVEL: Level = Level::Project;
    const COLUMNS: &'static [Column] = &[
        Column::Word("name"),
        Column::Word("key"),
        Column::Word("principal"),
        Column::Text("scopes"),
        Column::Word("state"),
        Column::Word("last used"),
    ];

    fn cells(&self, names: &Names) -> Vec<String> {
        vec![
            self.name.clone(),
            format!("…{}", self.status.last_four),
            names.of(&self.spec.principal_id),
            scopes(self),
            state(self, Timestamp::now()),
            self.status.last_used_at.map_or_else(|| "never".to_owned(), display::instant),
        ]
    }

    fn facts(&self, names: &Names) -> Facts {
        let mut facts = Facts::new();
        facts.add("name", &self.name).add("key", format!("{}…{}", self.status.prefix, self.status.last_four));
        facts.add("principal", names.of(&self.spec.principal_id)).add("scopes", scopes(self));
        facts.add("state", state(self, Timestamp::now())).add("limits", limits_text(self.spec.limits));
        facts.maybe("limits by model", model_limits_text(&self.spec.model_limits));
        facts.maybe("service tier", self.spec.service_tier.map(|tier| tier.as_str().to_owned()));
        facts.maybe("expires", self.spec.expires_at.map(display::instant));
        facts.maybe("revoked", self.status.revoked_at.map(display::instant));
        facts.maybe("replaced by", self.status.rotated_to.map(|id| id.to_string()));
        facts.add("last used", self.status.last_used_at.map_or_else(|| "never".to_owned(), display::instant));
        facts
    }

    async fn look_up(session: &Session, names: &mut Names) -> Result<(), Failure> {
        session.names::<Principal>(names).await
    }
}

fn scopes(key: &ApiKey) -> String {
    key.spec.scopes.iter().map(display::word).collect::<Vec<_>>().join(", ")
}

fn state(key: &ApiKey, now: Timestamp) -> String {
    let passed = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
    if passed(key.status.revoked_at) {
        "revoked"
    } else if passed(key.spec.expires_at) {
        "expired"
    } else {
        "valid"
    }
    .to_owned()
}
