//! The routes of `/api/v1`, and the document that describes them.

use axum::Router;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::frame;

mod managed;
mod place;

mod create;
mod delete;
mod read;
mod update;

mod kinds;

mod backups;
mod events;
mod focus;
mod gateways;
mod keys;
mod ledger;
mod live;
mod pages;
mod pulls;
mod route;
pub(crate) mod usage;
mod whoami;
mod why;

pub(crate) use keys::ALL_SCOPES;

/// Everything under `/api/v1`, and the pages beside it, without state.
fn described() -> (Router<App>, OpenApi) {
    let router = OpenApiRouter::with_openapi(skeleton());
    let router = whoami::routes(router);
    let router = kinds::routes(router);
    let router = keys::routes(router);
    let router = pulls::routes(router);
    let router = route::routes(router);
    let router = live::routes(router);
    let router = usage::routes(router);
    let router = focus::routes(router);
    let router = ledger::routes(router);
    let router = events::routes(router);
    let router = why::routes(router);
    let router = backups::routes(router);
    let router = pages::routes(router);
    router.split_for_parts()
}

fn skeleton() -> OpenApi {
    let mut licence = LicenseBuilder::new().name("Apache-2.0").build();
    licence.identifier = Some("Apache-2.0".to_owned());
    let info = InfoBuilder::new()
        .title("Galerne")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The control plane of a sovereign AI cloud. Errors are `application/problem+json`; each code has a page at `/api/v1/errors/{code}`."))
        .license(Some(licence));
    let mut openapi = OpenApiBuilder::new().info(info).build();
    let key = SecurityScheme::Http(
        HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("an API key, `galerne_…`")).build(),
    );
    openapi.components.get_or_insert_default().add_security_scheme("key", key);
    openapi
}

/// The document of `/api/v1` as it is committed and served.
pub fn document() -> String {
    let (_, openapi) = described();
    let mut text = openapi.to_pretty_json().expect("the document has text keys and finite numbers");
    text.push('\n');
    text
}

/// The router of everything that is ours.
pub(crate) fn router(app: App) -> Router {
    let (router, _) = described();
    router
        .merge(pages::open())
        .merge(gateways::routes())
        .fallback(frame::no_route)
        .method_not_allowed_fallback(frame::no_method)
        .layer(axum::middleware::from_fn_with_state(app.clone(), frame::around))
        .with_state(app)
}
