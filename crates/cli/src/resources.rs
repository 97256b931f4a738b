//! The verbs that every kind of resource shares: list, show, create, update, delete.

use clap::Args;
use galerne_api::client::DryRun;
use galerne_api::error::Code;
use galerne_api::v1::{Create, Kind, Update};
use serde::Serialize;
use serde_json::json;

use crate::display;
use crate::failure::Failure;
use crate::session::{Names, Session};
use crate::table::{Column, Facts, Table};

/// Whose resources of a kind are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// The site's.
    Site,
    /// A tenant's.
    Tenant,
    /// A project's.
    Project,
}

/// A kind as it looks on a terminal.
pub(crate) trait Shown: Kind + Serialize {
    /// Whose they are.
    const LEVEL: Level;
    /// Columns of its list.
    const COLUMNS: &'static [Column];
    /// One row of its list.
    fn cells(&self, names: &Names) -> Vec<String>;
    /// Everything about one.
    fn facts(&self, names: &Names) -> Facts;
    /// Its name.
    fn label(&self) -> &str;
    /// Its id.
    fn reference(&self) -> String;
    /// Its generation.
    fn generation(&self) -> i64;
    /// Looks up the names that ids in it stand for.
    async fn look_up(_session: &Session, _names: &mut Names) -> Result<(), Failure> {
        Ok(())
    }
}

/// What a verb that changes something takes.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct ChangeArguments {
    /// Check it and show what would be, without changing anything
    #[arg(long)]
    dry_run: bool,
}

impl ChangeArguments {
    pub(crate) fn dry_run(self) -> DryRun {
        if self.dry_run { DryRun::Yes } else { DryRun::No }
    }

    /// `created`, or `would be created`.
    pub(crate) fn participle(self, done: &str) -> String {
        if self.dry_run { format!("would be {done}") } else { done.to_owned() }
    }
}

/// What a verb that destroys something takes.
#[derive(Debug, Clone, Args)]
pub struct DeleteArguments {
    /// Its name or id
    pub(crate) name: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArguments,
}

/// What a verb that shows one takes.
#[derive(Debug, Clone, Args)]
pub struct ShowArguments {
    /// Its name or id
    pub(crate) name: String,
}

/// Lists everything of a kind.
pub(crate) async fn list<K: Shown>(session: &mut Session, empty: &str) -> Result<(), Failure> {
    let options = match K::LEVEL {
        // Who runs the site sees all of them; there are few.
        Level::Site | Level::Tenant => session.reach().await?,
        Level::Project => session.place.clone(),
    };
    let items = session.client()?.list_all::<K>(&options).await?;
    write_list(session, &items, empty).await
}

/// Writes a list that was fetched already.
pub(crate) async fn write_list<K: Shown>(session: &mut Session, items: &[K], empty: &str) -> Result<(), Failure> {
    if session.is_json() {
        return session.output.json(&json!({ "items": items }));
    }
    let mut names = Names::default();
    if !items.is_empty() {
        K::look_up(session, &mut names).await?;
    }
    let mut table = Table::new(K::COLUMNS);
    for item in items {
        table.row(item.cells(&names));
    }
    table.write(&mut session.output, empty)
}

/// Finds one by id, or by name in the tenant and project that were named, else in those of the key.
pub(crate) async fn find<K: Shown>(session: &Session, name: &str) -> Result<K, Failure> {
    let client = session.client()?;
    let near = match client.get::<K>(name, &session.place).await {
        Err(failure) if failure.code() == Code::NotFound && K::LEVEL == Level::Tenant => failure,
        found => return Ok(found?),
    };
    // What belongs to the site itself, such as its operator, is in no tenant.
    let reach = session.reach().await?;
    if reach.tenant == session.place.tenant {
        return Err(near.into());
    }
    client.get::<K>(name, &reach).await.map_err(|_| near.into())
}

/// Shows one.
pub(crate) async fn show<K: Shown>(session: &mut Session, name: &str) -> Result<(), Failure> {
    let found = find::<K>(session, name).await?;
    write_one(session, &found).await
}

/// Writes one that was fetched already.
pub(crate) async fn write_one<K: Shown>(session: &mut Session, found: &K) -> Result<(), Failure> {
    if session.is_json() {
        return session.output.json(found);
    }
    let mut names = Names::default();
    K::look_up(session, &mut names).await?;
    found.facts(&names).write(&mut session.output)
}

/// Makes one in the tenant and project that were named, else in those of the key.
pub(crate) async fn create<K: Shown>(
    session: &mut Session,
    name: &str,
    spec: K::Spec,
    change: ChangeArguments,
) -> Result<K, Failure> {
    let (tenant, project) = session.owner(K::LEVEL);
    let create = Create { name: name.to_owned(), tenant, project, spec };
    let made = session.client()?.create::<K>(&create, change.dry_run()).await?;
    said::<K>(session, &made, &change.participle("created"))?;
    Ok(made)
}

/// Replaces the spec of one by what `edit` makes of it.
pub(crate) async fn update<K: Shown>(
    session: &mut Session,
    seen: &K,
    spec: K::Spec,
    change: ChangeArguments,
    done: &str,
) -> Result<K, Failure> {
    let update = Update { generation: Some(seen.generation()), spec };
    let made = session.client()?.update::<K>(&seen.reference(), &update, change.dry_run()).await?;
    said::<K>(session, &made, &change.participle(done))?;
    Ok(made)
}

/// Deletes one after showing the effect.
pub(crate) async fn delete<K: Shown>(
    session: &mut Session,
    arguments: &DeleteArguments,
    effect: impl Fn(&K) -> String,
) -> Result<(), Failure> {
    let client = session.client()?;
    let seen = find::<K>(session, &arguments.name).await?;
    if arguments.change.dry_run() == DryRun::Yes {
        session.output.say(effect(&seen));
    } else if !session.output.may_go_on(&effect(&seen), arguments.yes)? {
        return Ok(());
    }
    let gone = client.delete::<K>(&seen.reference(), seen.generation(), arguments.change.dry_run()).await?;
    said::<K>(session, &gone, &arguments.change.participle("deleted"))
}

/// Says that something was done to a resource; JSON shows the resource itself.
fn said<K: Shown>(session: &mut Session, made: &K, done: &str) -> Result<(), Failure> {
    session.output.done(format!("{} `{}` {done}", K::NOUN, made.label()));
    if session.is_json() { session.output.json(made) } else { Ok(()) }
}

/// The lines that every resource ends with.
pub(crate) fn common_facts<I: std::fmt::Display, S, T>(
    facts: &mut Facts,
    resource: &galerne_model::resource::Resource<I, S, T>,
) {
    facts.add("generation", resource.generation.to_string());
    facts.add("created", display::instant(resource.created_at));
    facts.add("id", resource.id.to_string());
}
