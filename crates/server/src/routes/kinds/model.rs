//! Models: made by pulls, deleted by people.

use axum::extract::{Request, State};
use axum::response::Response;
use galerne_core::authorize::Noun;
use galerne_model::ids::ModelId;
use galerne_model::inference::{Backend, Endpoint, Model, ModelStatus};
use galerne_store::{Filter, Tx};
use jiff::Timestamp;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::tenancy::in_use;
use crate::app::App;
use crate::http::body::Segment;
use crate::http::caller::Caller;
use crate::http::operation as op;
use crate::http::refusal::Refusal;
use crate::http::write::Terms;
use crate::routes::delete;
use crate::routes::managed::{Level, Managed};

impl Managed for Model {
    const RIGHTS: Noun = Noun::Model;
    const LEVEL: Level = Level::Project;

    fn mint(uuid: Uuid) -> ModelId {
        ModelId::from_uuid(uuid)
    }

    fn initial(_now: Timestamp) -> ModelStatus {
        ModelStatus::default()
    }

    async fn check_unused(tx: &mut Tx, _caller: &Caller, resource: &Self) -> Result<(), Refusal> {
        let endpoints = tx.list_all::<Endpoint>(&Filter::default()).await?;
        let serves = |endpoint: &&Endpoint| matches!(endpoint.spec.backend, Backend::Worker { model_id, .. } if model_id == resource.id);
        match endpoints.iter().find(serves) {
            Some(endpoint) => Err(in_use(format!("endpoint `{}` serves it", endpoint.name))),
            None => Ok(()),
        }
    }
}

pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> {
    op::delete(
        "/api/v1/models/{name}",
        "delete_model",
        "delete one that no endpoint serves, and its bytes when no other model has them",
    )
    .answers_kind::<Model>(200)
    .on(router, delete_model)
}

async fn delete_model(
    state: State<App>,
    caller: Caller,
    name: Segment,
    terms: Terms,
    request: Request,
) -> Result<Response, Refusal> {
    let app = state.0.clone();
    let keeps = terms.dry_run;
    let response = delete::delete::<Model>(state, caller, name, terms, request).await?;
    if !keeps {
        app.control().remove_unnamed_weights().await;
    }
    Ok(response)
}
