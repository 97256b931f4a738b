//! The verbs that every kind of resource shares: list, show, create, update, delete.

use std::borrow::Borrow;

use clap::Args;
use galerne_api::client::DryRun;
use galerne_api::error::Code;
use galerne_api::v1::{Create, Kind, Update};
use galerne_model::resource::Resource;
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

/// A kind as it looks on a terminal: what is its own. What all kinds share is read from the `Resource` that each is.
pub(crate) trait Shown:
    Kind + Serialize + Borrow<Resource<<Self as Kind>::Id, Self::Spec, Self::Status>>
{
    /// Whose they are.
    const LEVEL: Level;
    /// Columns of its list.
    const COLUMNS: &'static [Column];
    /// One row of its list.
    fn cells(&self, names: &Names) -> Vec<String>;
    /// Everything about one but what every resource has.
    fn facts(&self, names: &Names) -> Facts;
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

/// What a verb that takes something away takes, beside what it is about.
#[derive(Debug, Clone, Copy, Args)]
pub struct RemovalArguments {
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
    #[command(flatten)]
    pub(crate) change: ChangeArguments,
}

impl RemovalArguments {
    /// Shows the effect, and asks unless it was said beforehand or nothing is going to happen.
    pub(crate) fn may_go_on(self, session: &mut Session, effect: &str) -> Result<bool, Failure> {
        if self.change.dry_run {
            session.output.say(effect);
            return Ok(true);
        }
        session.output.may_go_on(effect, self.yes)
    }
}

/// What a verb that destroys a resource takes.
#[derive(Debug, Clone, Args)]
pub struct DeleteArguments {
    /// Its name or id
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) removal: RemovalArguments,
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
        Err(near) if near.code() == Code::NotFound && K::LEVEL == Level::Tenant => near,
        found => return Ok(found?),
    };
    // What belongs to the site itself, such as its operator, is in no tenant.
    let reach = session.reach().await?;
    if reach.tenant == session.place.tenant {
        return Err(near.into());
    }
    Ok(client.get::<K>(name, &reach).await?)
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
    let mut facts = found.facts(&names);
    let resource = parts(found);
    facts.add("generation", resource.generation.to_string());
    facts.add("created", display::instant(resource.created_at));
    facts.add("id", resource.id.to_string());
    facts.write(&mut session.output)
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

/// Replaces the spec of the one with this name or id by what `edit` makes of it.
pub(crate) async fn edit<K: Shown>(
    session: &mut Session,
    name: &str,
    change: ChangeArguments,
    done: &str,
    edit: impl FnOnce(K::Spec) -> K::Spec,
) -> Result<(), Failure> {
    let seen = find::<K>(session, name).await?;
    let spec = edit(parts(&seen).spec.clone());
    update(session, &seen, spec, change, done).await
}

/// Replaces the spec of one that was fetched already.
pub(crate) async fn update<K: Shown>(
    session: &mut Session,
    seen: &K,
    spec: K::Spec,
    change: ChangeArguments,
    done: &str,
) -> Result<(), Failure> {
    let resource = parts(seen);
    if spec == resource.spec {
        // Nothing would come of it but a new generation, which others would have to follow.
        session.output.note(format!("{} `{}` is so already", K::NOUN, resource.name));
        return if session.is_json() { session.output.json(seen) } else { Ok(()) };
    }
    let update = Update { generation: Some(resource.generation), spec };
    let made = session.client()?.update::<K>(&resource.id.to_string(), &update, change.dry_run()).await?;
    said(session, &made, &change.participle(done))
}

/// Deletes the one with this name or id after showing the effect.
pub(crate) async fn delete<K: Shown>(
    session: &mut Session,
    arguments: &DeleteArguments,
    effect: impl FnOnce(&K) -> String,
) -> Result<(), Failure> {
    let seen = find::<K>(session, &arguments.name).await?;
    match remove(session, &seen, arguments.removal, &effect(&seen)).await? {
        Some(gone) => said(session, &gone, &arguments.removal.change.participle("deleted")),
        None => Ok(()),
    }
}

/// Deletes one that was fetched already, unless the person who is asked says no.
pub(crate) async fn remove<K: Shown>(
    session: &mut Session,
    seen: &K,
    removal: RemovalArguments,
    effect: &str,
) -> Result<Option<K>, Failure> {
    if !removal.may_go_on(session, effect)? {
        return Ok(None);
    }
    let resource = parts(seen);
    let client = session.client()?;
    Ok(Some(client.delete::<K>(&resource.id.to_string(), resource.generation, removal.change.dry_run()).await?))
}

/// Says that something was done to a resource; JSON shows the resource itself.
pub(crate) fn said<K: Shown>(session: &mut Session, made: &K, done: &str) -> Result<(), Failure> {
    session.output.done(format!("{} `{}` {done}", K::NOUN, parts(made).name));
    if session.is_json() { session.output.json(made) } else { Ok(()) }
}

/// What every kind has.
fn parts<K: Shown>(shown: &K) -> &Resource<<K as Kind>::Id, K::Spec, K::Status> {
    shown.borrow()
}
