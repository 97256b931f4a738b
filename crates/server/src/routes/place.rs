//! Where a request looks: the tenant and project it names, or those of its key.

use galerne_api::error::Code;
use galerne_api::nearest::nearest;
use galerne_api::v1::Kind as ApiKind;
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::{Project, Scope, Tenant};
use galerne_model::ids::{ProjectId, TenantId};
use galerne_model::limits::PAGE_MAX;
use galerne_store::{Filter, Kind as StoreKind, Page, Reader, StoreError};

use super::managed::{Level, Managed};
use super::read::visible;
use crate::http::caller::{About, Caller};
use crate::http::refusal::Refusal;

/// All tenants, for those who may see them.
const EVERYWHERE: &str = "*";

/// A tenant and perhaps a project; without tenant, the whole site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) tenant_id: Option<TenantId>,
    pub(crate) project_id: Option<ProjectId>,
    /// Whether the caller named the project.
    pub(crate) named_project: bool,
}

impl Place {
    /// The place a request names.
    pub(crate) async fn find(
        reader: &mut Reader,
        caller: &Caller,
        tenant: Option<&str>,
        project: Option<&str>,
    ) -> Result<Self, Refusal> {
        let tenant_id = match tenant {
            None => Some(caller.tenant_id),
            Some(EVERYWHERE) => None,
            Some(name) => Some(visible_tenant(reader, caller, name).await?.id),
        };
        let project_id = match project {
            None if tenant_id == Some(caller.tenant_id) => Some(caller.project_id),
            None => None,
            Some(name) => Some(visible_project(reader, caller, tenant_id, name).await?.id),
        };
        Ok(Self { tenant_id, project_id, named_project: project.is_some() })
    }

    /// The filter of a list: a tenant, and a project only when it was named.
    pub(crate) fn filter<K: Managed>(&self) -> Filter {
        match K::LEVEL {
            Level::Site => Filter::default(),
            Level::Tenant => Filter { tenant_id: self.tenant_id, ..Filter::default() },
            Level::Project => Filter {
                tenant_id: self.tenant_id,
                project_id: self.project_id.filter(|_| self.named_project),
                name: None,
            },
        }
    }

    /// The scope around everything a list could hold.
    pub(crate) fn scope<K: Managed>(&self) -> Scope {
        match K::LEVEL {
            Level::Site => Scope::Site,
            Level::Tenant => super::managed::scope(self.tenant_id, None),
            Level::Project => super::managed::scope(self.tenant_id, self.project_id.filter(|_| self.named_project)),
        }
    }
}

async fn visible_tenant(reader: &mut Reader, caller: &Caller, name: &str) -> Result<Tenant, Refusal> {
    let id: Option<TenantId> = name.parse().ok();
    let tenant: Option<Tenant> = match id {
        Some(id) => by_id(reader, id, &Filter::default()).await?,
        None => reader.find(&Filter::default().named(name)).await?,
    };
    let about = About { noun: "tenant", verb: "read", name, id: tenant.as_ref().map(|tenant| tenant.id.to_string()) };
    let Some(tenant) = tenant else { return Err(Refusal::not_found("tenant", name)) };
    // Whoever has a role anywhere inside may name the tenant; the key's own is known to its holder.
    let scope = Scope::Tenant { tenant_id: tenant.id };
    if tenant.id != caller.tenant_id && caller.may_list(Noun::Tenant, scope, &about).is_err() {
        caller.may(Verb::Read, Noun::Tenant, scope, &about)?;
    }
    Ok(tenant)
}

async fn visible_project(
    reader: &mut Reader,
    caller: &Caller,
    tenant_id: Option<TenantId>,
    name: &str,
) -> Result<Project, Refusal> {
    let id: Option<ProjectId> = name.parse().ok();
    let found = match id {
        Some(id) => by_id::<Project>(reader, id, &Filter { tenant_id, ..Filter::default() }).await?,
        None => {
            let wide = Filter { tenant_id, ..Filter::default() }.named(name);
            match only_visible::<Project>(reader, caller, &wide, name).await? {
                Some(project) => Some(project),
                // What may not be seen is kept where it is the only one, so that it is refused with its event.
                None => only(reader, &wide).await?,
            }
        }
    };
    let Some(project) = found else { return Err(Refusal::not_found("project", name)) };
    let about = About { noun: "project", verb: "read", name, id: Some(project.id.to_string()) };
    if project.id != caller.project_id {
        caller.may(Verb::Read, Noun::Project, project.read_scope(), &about)?;
    }
    Ok(project)
}

/// The resource of this id, where the filter admits it.
async fn by_id<K: Managed>(
    reader: &mut Reader,
    id: <K as StoreKind>::Id,
    filter: &Filter,
) -> Result<Option<K>, StoreError> {
    match reader.get_within::<K>(id, filter).await {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The one resource that a path names, if the caller may see it.
pub(crate) async fn resolve<K: Managed>(
    reader: &mut Reader,
    caller: &Caller,
    place: Place,
    name: &str,
) -> Result<K, Refusal> {
    let noun = <K as ApiKind>::NOUN;
    let id: Option<<K as StoreKind>::Id> = name.parse().ok();
    let found = match id {
        Some(id) => by_id::<K>(reader, id, &Filter::default()).await?,
        None => by_name::<K>(reader, caller, place, name).await?,
    };
    let Some(found) = found else { return Err(not_found::<K>(reader, caller, place, name).await?) };
    let about = About { noun, verb: "read", name, id: Some(found.resource().id.to_string()) };
    caller.may(Verb::Read, K::RIGHTS, found.read_scope(), &about)?;
    Ok(found)
}

/// Says that there is none of this name, and which of those the caller may see are called nearly so.
async fn not_found<K: Managed>(
    reader: &mut Reader,
    caller: &Caller,
    place: Place,
    name: &str,
) -> Result<Refusal, StoreError> {
    let refusal = Refusal::not_found(<K as ApiKind>::NOUN, name);
    let listed = reader.list::<K>(&place.filter::<K>(), &Page { cursor: None, limit: PAGE_MAX }).await?;
    let mut around = listed.items;
    around.retain(|item| caller.can(Verb::Read, K::RIGHTS, item.read_scope()));
    let near = nearest(name, around.iter().map(|item| item.resource().name.as_str()));
    Ok(if near.is_empty() { refusal } else { refusal.hint(format!("did you mean `{}`?", near.join("` or `"))) })
}

async fn by_name<K: Managed>(
    reader: &mut Reader,
    caller: &Caller,
    place: Place,
    name: &str,
) -> Result<Option<K>, Refusal> {
    if K::LEVEL == Level::Site {
        return Ok(reader.find::<K>(&Filter::default().named(name)).await?);
    }
    if let (Some(tenant_id), Some(project_id)) = (place.tenant_id, place.project_id) {
        let near = Filter { tenant_id: Some(tenant_id), project_id: Some(project_id), name: None };
        if let Some(found) = reader.find::<K>(&near.named(name)).await? {
            return Ok(Some(found));
        }
        if K::LEVEL == Level::Project && place.named_project {
            return Ok(None);
        }
    }
    // Not in this project: the only one of this name that the caller can see is meant.
    let wide = Filter { tenant_id: place.tenant_id, ..Filter::default() }.named(name);
    only_visible(reader, caller, &wide, name).await
}

/// The only one of a name that the caller may see: names are unique only inside their owner.
async fn only_visible<K: Managed>(
    reader: &mut Reader,
    caller: &Caller,
    wide: &Filter,
    name: &str,
) -> Result<Option<K>, Refusal> {
    let mut seen = visible::<K>(reader, caller, wide, None, 2).await?;
    match seen.len() {
        0 | 1 => Ok(seen.pop()),
        _ => Err(ambiguous(name)),
    }
}

/// The one that a filter admits, unless it admits several.
async fn only<K: Managed>(reader: &mut Reader, filter: &Filter) -> Result<Option<K>, StoreError> {
    let mut listed = reader.list::<K>(filter, &Page { cursor: None, limit: 2 }).await?;
    Ok(if listed.items.len() == 1 { listed.items.pop() } else { None })
}

fn ambiguous(name: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("several are named `{name}`, in different tenants or projects"))
        .hint("say which by `tenant` and `project`, or give its id")
}
