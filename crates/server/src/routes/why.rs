//! Why something is as it is: facts are loaded here, the reasons are `core::why`'s.
use utoipa_axum::router::OpenApiRouter;
use crate::app::App;
pub(crate) fn routes(router: OpenApiRouter<App>) -> OpenApiRouter<App> { router }
