//! Who calls.

use axum::extract::State;
use axum::response::Response;
use galerne_api::v1::identity::Whoami;
use galerne_model::identity::{ApiKey, Principal, Project, RoleBinding, Tenant};
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;

use super::managed::Managed;
use crate::app::App;
use crate::http::body::answer;
use crate::http::caller::Caller;
use crate::http::operation as op;
use crate::http::refusal::Refusal;

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::get("/api/v1/whoami", "whoami", "who the key acts for, where, and with which rights")
        .refers::<Principal>()
        .refers::<ApiKey>()
        .refers::<Tenant>()
        .refers::<Project>()
        .refers::<RoleBinding>()
        .answers::<Whoami>(200)
        .on(router, whoami)
}

/// Anybody with a key that may be used learns who they are, whatever its scopes.
async fn whoami(State(app): State<App>, caller: Caller) -> Result<Response, Refusal> {
    let mut reader = app.store().reader().await?;
    let tenant: Tenant = reader.get(caller.tenant_id).await?;
    let project: Project = reader.get(caller.project_id).await?;
    let body = Whoami {
        principal: (*caller.principal).clone(),
        key: (*caller.key).clone().shown(),
        tenant,
        project,
        roles: caller.roles.iter().map(|role| (**role).clone()).collect(),
        server_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(answer(StatusCode::OK, &body))
}
