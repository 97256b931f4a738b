//! Reading and changing resources.
//!
//! INVARIANT: a spec changes only from the generation its writer saw; a status never changes the generation.

use galerne_model::ids::{ProjectId, TenantId};
use galerne_model::limits::PAGE_MAX;
use galerne_model::resource::Resource;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::any::AnyRow;

use crate::error::StoreError;
use crate::kind::Kind;
use crate::store::{Reader, Store, Tx};

/// What a read may see; absent means any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only what this tenant owns.
    pub tenant_id: Option<TenantId>,
    /// Only what this project owns.
    pub project_id: Option<ProjectId>,
    /// Only this name.
    pub name: Option<String>,
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where the page before ended; absent for the first.
    pub cursor: Option<String>,
    /// Most items; held between 1 and `PAGE_MAX`.
    pub limit: u32,
}

/// Items of a page, by id.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed<K> {
    /// The items.
    pub items: Vec<K>,
    /// Cursor of the next page; absent when this is the last.
    pub next: Option<String>,
}

/// Stands for "any generation" and "any version" in statements.
const ANY: i64 = -1;

impl Filter {
    /// What a tenant owns.
    pub fn tenant(tenant_id: TenantId) -> Self {
        Self { tenant_id: Some(tenant_id), ..Self::default() }
    }

    /// What a project owns.
    pub fn project(project_id: ProjectId) -> Self {
        Self { project_id: Some(project_id), ..Self::default() }
    }

    /// The same, and with this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    fn admits<I, S, T>(&self, resource: &Resource<I, S, T>) -> bool {
        self.tenant_id.is_none_or(|tenant| resource.tenant_id == Some(tenant))
            && self.project_id.is_none_or(|project| resource.project_id == Some(project))
            && self.name.as_ref().is_none_or(|name| *name == resource.name)
    }
}

impl Reader {
    /// A living resource.
    pub async fn get<K: Kind>(&mut self, id: K::Id) -> Result<K, StoreError> {
        self.get_within(id, &Filter::default()).await
    }

    /// A living resource, if the filter admits it; else it does not exist.
    pub async fn get_within<K: Kind>(&mut self, id: K::Id, filter: &Filter) -> Result<K, StoreError> {
        let row = sqlx::query(K::STATEMENTS.get).bind(id.to_string()).fetch_optional(self.conn()).await?;
        let resource = row.as_ref().map(read::<K>).transpose()?;
        resource.filter(|found| filter.admits(found.resource())).ok_or_else(|| not_found::<K>(id))
    }

    /// A deleted resource, for records that still name it.
    pub async fn get_deleted<K: Kind>(&mut self, id: K::Id) -> Result<K, StoreError> {
        let row = sqlx::query(K::STATEMENTS.get_deleted).bind(id.to_string()).fetch_optional(self.conn()).await?;
        row.as_ref().map(read::<K>).transpose()?.ok_or_else(|| not_found::<K>(id))
    }

    /// The first living resource the filter admits.
    pub async fn find<K: Kind>(&mut self, filter: &Filter) -> Result<Option<K>, StoreError> {
        Ok(self.rows::<K>(filter, "", 1).await?.pop())
    }

    /// A page of living resources, by id.
    pub async fn list<K: Kind>(&mut self, filter: &Filter, page: &Page) -> Result<Listed<K>, StoreError> {
        let limit = page.limit.clamp(1, PAGE_MAX);
        let after = page.cursor.as_deref().unwrap_or("");
        let mut items = self.rows::<K>(filter, after, i64::from(limit) + 1).await?;
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next = items.last().filter(|_| more).map(|last| last.resource().id.to_string());
        Ok(Listed { items, next })
    }

    /// All living resources the filter admits, by id. For loops that need the whole; requests use pages.
    pub async fn list_all<K: Kind>(&mut self, filter: &Filter) -> Result<Vec<K>, StoreError> {
        self.rows::<K>(filter, "", i64::MAX).await
    }

    async fn rows<K: Kind>(&mut self, filter: &Filter, after: &str, limit: i64) -> Result<Vec<K>, StoreError> {
        let rows = sqlx::query(K::STATEMENTS.list)
            .bind(after.to_owned())
            .bind(filter.tenant_id.map(|id| id.to_string()))
            .bind(filter.project_id.map(|id| id.to_string()))
            .bind(filter.name.clone())
            .bind(limit)
            .fetch_all(self.conn())
            .await?;
        rows.iter().map(read::<K>).collect()
    }
}

impl Store {
    /// See [`Reader::get`].
    pub async fn get<K: Kind>(&self, id: K::Id) -> Result<K, StoreError> {
        self.read_once().await?.get(id).await
    }

    /// See [`Reader::get_within`].
    pub async fn get_within<K: Kind>(&self, id: K::Id, filter: &Filter) -> Result<K, StoreError> {
        self.read_once().await?.get_within(id, filter).await
    }

    /// See [`Reader::get_deleted`].
    pub async fn get_deleted<K: Kind>(&self, id: K::Id) -> Result<K, StoreError> {
        self.read_once().await?.get_deleted(id).await
    }

    /// See [`Reader::find`].
    pub async fn find<K: Kind>(&self, filter: &Filter) -> Result<Option<K>, StoreError> {
        self.read_once().await?.find(filter).await
    }

    /// See [`Reader::list`].
    pub async fn list<K: Kind>(&self, filter: &Filter, page: &Page) -> Result<Listed<K>, StoreError> {
        self.read_once().await?.list(filter, page).await
    }

    /// See [`Reader::list_all`].
    pub async fn list_all<K: Kind>(&self, filter: &Filter) -> Result<Vec<K>, StoreError> {
        self.read_once().await?.list_all(filter).await
    }
}

impl Tx {
    /// Writes a new resource. Instants are kept to the microsecond, so what is returned may differ below it.
    pub async fn insert<K: Kind>(&mut self, new: &K) -> Result<K, StoreError> {
        let new = new.resource();
        let row = sqlx::query(K::STATEMENTS.insert)
            .bind(new.id.to_string())
            .bind(new.tenant_id.map(|id| id.to_string()))
            .bind(new.project_id.map(|id| id.to_string()))
            .bind(new.name.clone())
            .bind(new.generation)
            .bind(json(&new.spec)?)
            .bind(json(&new.status)?)
            .bind(new.created_at.as_microsecond())
            .bind(new.updated_at.as_microsecond())
            .fetch_optional(self.conn())
            .await?;
        match row {
            Some(row) => read::<K>(&row),
            None => Err(StoreError::Exists { kind: K::NAME, name: new.name.clone() }),
        }
    }

    /// Replaces what was asked, if `expected_generation` is still in force; the generation grows by one.
    pub async fn update_spec<K: Kind>(
        &mut self,
        id: K::Id,
        expected_generation: i64,
        spec: &K::Spec,
        now: Timestamp,
    ) -> Result<K, StoreError> {
        let row = sqlx::query(K::STATEMENTS.update_spec)
            .bind(id.to_string())
            .bind(expected_generation)
            .bind(json(spec)?)
            .bind(now.as_microsecond())
            .fetch_optional(self.conn())
            .await?;
        self.changed_or_why(row, id).await
    }

    /// Replaces what is seen. The generation stays.
    pub async fn update_status<K: Kind>(
        &mut self,
        id: K::Id,
        status: &K::Status,
        now: Timestamp,
    ) -> Result<K, StoreError> {
        self.write_status(id, ANY, status, now).await
    }

    /// Replaces what is seen, if nothing changed the resource since `seen_updated_at`.
    pub async fn update_status_if<K: Kind>(
        &mut self,
        id: K::Id,
        seen_updated_at: Timestamp,
        status: &K::Status,
        now: Timestamp,
    ) -> Result<K, StoreError> {
        self.write_status(id, seen_updated_at.as_microsecond(), status, now).await
    }

    async fn write_status<K: Kind>(
        &mut self,
        id: K::Id,
        version: i64,
        status: &K::Status,
        now: Timestamp,
    ) -> Result<K, StoreError> {
        let row = sqlx::query(K::STATEMENTS.update_status)
            .bind(id.to_string())
            .bind(version)
            .bind(json(status)?)
            .bind(now.as_microsecond())
            .fetch_optional(self.conn())
            .await?;
        self.changed_or_why(row, id).await
    }

    /// Marks a resource deleted and frees its name; its row stays for the records that name it.
    pub async fn delete<K: Kind>(
        &mut self,
        id: K::Id,
        expected_generation: Option<i64>,
        now: Timestamp,
    ) -> Result<K, StoreError> {
        let row = sqlx::query(K::STATEMENTS.delete)
            .bind(id.to_string())
            .bind(expected_generation.unwrap_or(ANY))
            .bind(now.as_microsecond())
            .fetch_optional(self.conn())
            .await?;
        self.changed_or_why(row, id).await
    }

    async fn changed_or_why<K: Kind>(&mut self, row: Option<AnyRow>, id: K::Id) -> Result<K, StoreError> {
        match row {
            Some(row) => read::<K>(&row),
            None => {
                let current = self.get::<K>(id).await?;
                Err(StoreError::Conflict { current: current.resource().generation })
            }
        }
    }
}

fn read<K: Kind>(row: &AnyRow) -> Result<K, StoreError> {
    let id: String = row.try_get("id")?;
    let parse = |what: &str| StoreError::Corrupt(format!("{} `{id}` has an unreadable {what}", K::NAME));
    let owner = |column: &str| row.try_get::<Option<String>, _>(column);
    let tenant_id = owner("tenant_id")?.map(|text| text.parse()).transpose().map_err(|_| parse("tenant"))?;
    let project_id = owner("project_id")?.map(|text| text.parse()).transpose().map_err(|_| parse("project"))?;
    Ok(K::from_resource(Resource {
        id: id.parse().map_err(|_| parse("id"))?,
        tenant_id,
        project_id,
        name: row.try_get("name")?,
        generation: row.try_get("generation")?,
        created_at: instant(row.try_get("created_at")?)?,
        updated_at: instant(row.try_get("updated_at")?)?,
        spec: from_json(&row.try_get::<String, _>("spec")?).map_err(|e| parse(&format!("spec ({e})")))?,
        status: from_json(&row.try_get::<String, _>("status")?).map_err(|e| parse(&format!("status ({e})")))?,
    }))
}

pub(crate) fn instant(micros: i64) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(|_| StoreError::Corrupt(format!("{micros} is not an instant")))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    // Specs and statuses are plain structs with text keys; only a broken invariant could end here.
    serde_json::to_string(value).map_err(|error| StoreError::Corrupt(format!("cannot be written as JSON: {error}")))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text)
}

fn not_found<K: Kind>(id: K::Id) -> StoreError {
    StoreError::NotFound { kind: K::NAME, id: id.to_string() }
}
