//! GET of one and of many, for every kind.

use axum::extract::State;
use axum::response::Response;
use galerne_api::v1::Kind as ApiKind;
use galerne_api::v1::Page;
use galerne_core::authorize::{Noun, Verb};
use galerne_model::identity::Scope;
use http::StatusCode;
use serde::Deserialize;

use super::managed::{Level, Managed};
use super::place::{Place, resolve};
use crate::app::App;
use crate::http::body::{Params, Segment, answer};
use crate::http::caller::{About, Caller};
use crate::http::paging::ListParams;
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

/// A page of those the caller may see. A page may be shorter than asked while more follow.
pub(crate) async fn many<K: Managed>(
    State(app): State<App>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Result<Response, Refusal> {
    let page = params.page()?;
    let mut reader = app.store().reader().await?;
    let place = Place::find(&mut reader, &caller, params.tenant.as_deref(), params.project.as_deref()).await?;
    let about = About::all(<K as ApiKind>::NOUN, "list");
    if K::LEVEL == Level::Site && K::RIGHTS != Noun::Tenant {
        caller.may(Verb::Read, K::RIGHTS, Scope::Site, &about)?;
    } else {
        caller.may_list(K::RIGHTS, place.scope::<K>(), &about)?;
    }
    let listed = reader.list::<K>(&place.filter::<K>(), &page).await?;
    let items =
        listed.items.into_iter().filter(|item| caller.can(Verb::Read, K::RIGHTS, item.read_scope())).map(K::shown);
    Ok(answer(StatusCode::OK, &Page { items: items.collect(), next_cursor: listed.next }))
}
