//! Routes of others under `/v1`: the same keys, the same request ids, refusals in the same shape and told the same way.
//!
//! Such a route is served by whoever has the store; what it shares with the gateway's own is here.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use axum::{Router, middleware};
use galerne_model::ids::RequestId;
use galerne_model::snapshot::KeyEntry;

use crate::body;
use crate::config::{Gateway, Shared};
use crate::denial::Asker;
use crate::refusal::Refusal;
use crate::routes;

/// Somebody with a key that may be used for inference now.
#[derive(Debug, Clone)]
pub struct Visitor {
    /// The key.
    pub key: Arc<KeyEntry>,
    /// The request, as the client sees it in `x-request-id`.
    pub request_id: RequestId,
}

/// A refusal on its way to [`tell`].
#[derive(Debug, Clone)]
struct Untold(Refusal);

impl Gateway {
    /// Gives the requests of `router` ids, and tells what its handlers refuse.
    pub fn around(&self, router: Router) -> Router {
        let shared = Arc::clone(&self.shared);
        router.layer(middleware::from_fn_with_state(shared, tell)).layer(middleware::from_fn(routes::identify))
    }

    /// The whole body of a request, bounded in bytes and in time as those of the gateway's own routes.
    pub async fn body(&self, headers: &HeaderMap, body: Body) -> Result<Bytes, Refusal> {
        body::read(headers, body, self.shared.bounds.client).await
    }

    /// The id of a request inside [`Gateway::around`].
    pub fn request_id(&self, parts: &Parts) -> RequestId {
        parts.extensions.get::<Asker>().expect("`around` is around every such route").request_id
    }

    /// Who calls a route inside [`Gateway::around`].
    pub fn visitor(&self, parts: &mut Parts) -> Result<Visitor, Refusal> {
        let asker = parts.extensions.get_mut::<Asker>().expect("`around` is around every such route");
        let snapshot = Arc::clone(&self.shared.snapshot.borrow());
        let key = routes::authenticate(&self.shared, &snapshot, &parts.headers, asker);
        match key {
            Ok(key) => Ok(Visitor { key, request_id: asker.request_id }),
            Err(refusal) => Err(refusal.asked_by(asker.clone())),
        }
    }
}

impl IntoResponse for Refusal {
    /// What a handler inside [`Gateway::around`] answers; the body is written there.
    fn into_response(self) -> Response<Body> {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(Untold(self));
        response
    }
}

async fn tell(State(shared): State<Arc<Shared>>, request: Request, next: middleware::Next) -> Response<Body> {
    let asker = request.extensions().get::<Asker>().expect("`identify` is around this").clone();
    let mut response = next.run(request).await;
    match response.extensions_mut().remove::<Untold>() {
        Some(Untold(mut refusal)) => {
            let asker = refusal.asker.take().map_or(asker, |asker| *asker);
            routes::finish(&shared, &asker, Err(refusal))
        }
        None => response,
    }
}
