//! GET of one and of many, for every kind.

use axum::extract::State;
use axum::response::Response;
use galerne_api::v1::Kind as ApiKind;
use galerne_api::v1::Page;
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::Scope;
use galerne_model::limits::PAGE_MAX;
use galerne_store::{Filter, Reader};
use http::StatusCode;
use serde::Deserialize;

use super::managed::{Level, Managed};
use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Params, Segment, answer};
use crate::http::caller::{About, Caller};
use crate::http::paging::{self, ListParams};
use crate::http::refusal::Refusal;

/// Where a name is looked up.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlaceParams {
    pub(crate) tenant: Option<String>,
    pub(crate) project: Option<String>,
}

/// One, by id or name.
pub(crate) async fn one<K: Managed>(
    State(app): State<App>,
    caller: Caller,
    Segment(name): Segment,
    Params(params): Params<PlaceParams>,
) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let place = Place::find(&mut reader, &caller, params.tenant.as_deref(), params.project.as_deref()).await?;
    let found: K = resolve(&mut reader, &caller, place, &name).await?;
    Ok(answer(StatusCode::OK, &found.shown()))
}

/// A page of those the caller may see.
pub(crate) async fn many<K: Managed>(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Refusal> {
    let limit = paging::limit(params.limit)? as usize;
    let after = paging::after_id::<<K as ApiKind>::Id>(params.cursor.as_deref())?;
    let mut reader = app.store().reader().await?;
    let place = Place::find(&mut reader, &caller, params.tenant.as_deref(), params.project.as_deref()).await?;
    let about = About::all(<K as ApiKind>::NOUN, "list");
    if K::LEVEL == Level::Site && K::RIGHTS != Noun::Tenant {
        caller.may(Verb::Read, K::RIGHTS, Scope::Site, &about)?;
    } else {
        caller.may_list(K::RIGHTS, place.scope::<K>(), &about)?;
    }
    let mut items = visible::<K>(&mut reader, &caller, &place.filter::<K>(), after, limit + 1).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next_cursor = items.last().filter(|_| more).map(|last| last.resource().id.to_string());
    let items = items.into_iter().map(K::shown).collect();
    Ok(answer(StatusCode::OK, &Page { items, next_cursor }))
}

/// The first `count` after `cursor` that the caller may see. What lies between them is passed over here: a short page, or
/// a cursor that names what may not be seen, would tell that it is there.
pub(super) async fn visible<K: Managed>(
    reader: &mut Reader,
    caller: &Caller,
    filter: &Filter,
    mut cursor: Option<String>,
    count: usize,
) -> Result<Vec<K>, Refusal> {
    let mut seen: Vec<K> = Vec::new();
    loop {
        let listed = reader.list::<K>(filter, &galerne_store::Page { cursor, limit: PAGE_MAX }).await?;
        let may_see = |item: &K| caller.can(Verb::Read, K::RIGHTS, item.read_scope());
        seen.extend(listed.items.into_iter().filter(may_see).take(count - seen.len()));
        cursor = listed.next;
        if cursor.is_none() || seen.len() == count {
            return Ok(seen);
        }
    }
}
