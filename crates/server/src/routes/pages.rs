//! Pages: the document, the error pages, health, and a plain page at `/`.

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use galerne_api::error::Code;
use galerne_api::nearest::nearest;
use http::{StatusCode, header};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::http::body::Segment;
use crate::http::operation as op;
use crate::http::refusal::Refusal;

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let router = op::get("/api/v1/openapi.json", "get_document", "this document")
        .open()
        .answers_media("application/json")
        .on(router, openapi);
    op::get("/api/v1/errors/{code}", "explain_error", "what an error code means and what to do")
        .open()
        .answers_media("text/markdown")
        .on(router, explain)
}

/// What is not part of the versioned API.
pub(crate) fn open() -> Router<App> {
    Router::new()
        .route("/", get(front))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
}

async fn openapi() -> Response {
    static DOCUMENT: std::sync::LazyLock<String> = std::sync::LazyLock::new(super::document);
    std::future::ready(([(header::CONTENT_TYPE, "application/json")], DOCUMENT.as_str()).into_response()).await
}

async fn explain(Segment(code): Segment) -> Result<Response, Refusal> {
    let page = galerne_api::error::explain(&code);
    let known = Code::ALL.iter().map(|code| code.as_str());
    let found = page.ok_or_else(|| {
        let refusal = Refusal::new(Code::NotFound, "there is no such error code");
        match nearest(&code, known).first() {
            Some(near) => refusal.hint(format!("did you mean `{near}`?")),
            None => refusal,
        }
    });
    std::future::ready(
        found.map(|page| ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], page).into_response()),
    )
    .await
}

/// The process answers.
async fn health() -> &'static str {
    std::future::ready("ok\n").await
}

/// The store answers too.
async fn ready(State(app): State<App>) -> Response {
    let asked = app.store().find::<galerne_model::node::Node>(&galerne_store::Filter::default()).await;
    match asked {
        Ok(_) if !app.is_draining() => (StatusCode::OK, "ready\n").into_response(),
        Ok(_) => Refusal::new(Code::Draining, "the server is shutting down").into_response(),
        Err(error) => Refusal::from(error).into_response(),
    }
}

/// Prometheus text. No tenant, node or request is named in it.
async fn metrics(State(app): State<App>) -> Result<Response, Refusal> {
    let text = app.metrics_text().map_err(|error| {
        tracing::error!(%error, "metrics could not be written");
        Refusal::new(Code::Internal, "metrics could not be written")
    })?;
    let media = "text/plain; version=0.0.4; charset=utf-8";
    std::future::ready(Ok(([(header::CONTENT_TYPE, media)], text).into_response())).await
}

async fn front() -> Html<&'static str> {
    std::future::ready(Html(include_str!("pages/front.html"))).await
}
