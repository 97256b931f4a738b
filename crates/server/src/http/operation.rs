//! One operation of `/api/v1`: its handler and its place in the document, said together.

use axum::handler::Handler;
use axum::routing::{MethodFilter, MethodRouter};
use galerne_api::error::Problem;
use galerne_api::v1::kind::{Kind, resource_ref};
use utoipa::openapi::path::{OperationBuilder, ParameterBuilder, ParameterIn, PathItem, Paths};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{Content, HttpMethod, Ref, RefOr, Required, Response, ResponseBuilder, Schema};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::app::App;

type Schemas = Vec<(String, RefOr<Schema>)>;

/// An operation that is being described.
pub(crate) struct Op {
    method: HttpMethod,
    path: String,
    operation: OperationBuilder,
    schemas: Schemas,
    problems: Vec<u16>,
}

pub(crate) fn get(path: &str, id: &str, summary: &str) -> Op {
    Op::new(HttpMethod::Get, path, id, summary)
}

pub(crate) fn post(path: &str, id: &str, summary: &str) -> Op {
    Op::new(HttpMethod::Post, path, id, summary)
        .changes()
        .parameter(
            "Idempotency-Key",
            ParameterIn::Header,
            "repeating the request under the same key gives the first answer again",
            text(255),
        )
        .may_fail(&[409, 415])
}

pub(crate) fn put(path: &str, id: &str, summary: &str) -> Op {
    Op::new(HttpMethod::Put, path, id, summary).changes().based_on_generation().may_fail(&[415])
}

pub(crate) fn delete(path: &str, id: &str, summary: &str) -> Op {
    Op::new(HttpMethod::Delete, path, id, summary).changes().based_on_generation()
}

impl Op {
    fn new(method: HttpMethod, path: &str, id: &str, summary: &str) -> Self {
        let tag = path.trim_start_matches("/api/v1/").split('/').next().unwrap_or("").to_owned();
        let mut operation = OperationBuilder::new()
            .operation_id(Some(id))
            .summary(Some(summary))
            .tag(tag)
            .security(SecurityRequirement::new("key", Vec::<String>::new()));
        for name in path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')) {
            let about = match name {
                "name" => "name or id",
                "kind" => "kind of thing",
                "code" => "error code",
                _ => "id",
            };
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Path)
                .required(Required::True)
                .description(Some(about));
            operation = operation.parameter(parameter.schema(Some(text(500))));
        }
        let problems = if path.contains('{') {
            vec![400, 401, 403, 404, 408, 500, 503]
        } else {
            vec![400, 401, 403, 408, 500, 503]
        };
        let mut schemas = Schemas::new();
        add::<Problem>(&mut schemas);
        Self { method, path: path.to_owned(), operation, schemas, problems }
    }

    /// Needs no key.
    pub(crate) fn open(mut self) -> Self {
        let operation = self.operation.build();
        let mut operation = OperationBuilder::from(operation);
        operation = operation.securities(None::<Vec<SecurityRequirement>>);
        self.operation = operation;
        self
    }

    fn changes(self) -> Self {
        self.placed()
            .query(
                "dry_run",
                "only show what would happen: the same checks, no change",
                ObjectBuilder::new().schema_type(Type::Boolean).into(),
            )
            .may_fail(&[404, 409, 413, 422])
    }

    pub(crate) fn based_on_generation(self) -> Self {
        self.parameter("If-Match", ParameterIn::Header, "the generation the change is based on, in quotes", text(64))
            .may_fail(&[409, 428])
    }

    fn parameter(mut self, name: &str, place: ParameterIn, about: &str, schema: RefOr<Schema>) -> Self {
        let parameter = ParameterBuilder::new()
            .name(name)
            .parameter_in(place)
            .required(Required::False)
            .description(Some(about))
            .schema(Some(schema));
        self.operation = self.operation.parameter(parameter);
        self
    }

    /// Takes an optional query parameter.
    pub(crate) fn query(self, name: &str, about: &str, schema: RefOr<Schema>) -> Self {
        self.parameter(name, ParameterIn::Query, about, schema)
    }

    /// Takes several optional query parameters that are text.
    pub(crate) fn queries(self, all: &[(&str, &str)]) -> Self {
        all.iter().fold(self, |op, (name, about)| op.query(name, about, text(500)))
    }

    /// Looks names up in a tenant and project.
    pub(crate) fn placed(self) -> Self {
        self.queries(&[
            ("tenant", "tenant, by name or id; default: that of the key"),
            ("project", "project, by name or id; default: that of the key"),
        ])
        .may_fail(&[404])
    }

    /// Comes in pages.
    pub(crate) fn paged(self) -> Self {
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .minimum(Some(1))
            .maximum(Some(galerne_model::limits::PAGE_MAX));
        self.query("limit", "longest page", limit.into()).query("cursor", "`next_cursor` of the page before", text(500))
    }

    /// Takes a body.
    pub(crate) fn body<T: ToSchema>(mut self) -> Self {
        let schema = add::<T>(&mut self.schemas);
        self.operation = self.operation.request_body(Some(
            RequestBodyBuilder::new().content("application/json", Content::new(Some(schema))).build(),
        ));
        self
    }

    /// Takes `Create<Spec>` of a kind.
    pub(crate) fn create_body<K: Kind>(self) -> Self {
        self.named_body::<galerne_api::v1::Create<K::Spec>>(&format!("Create{}", K::NAME))
    }

    /// Takes `Update<Spec>` of a kind.
    pub(crate) fn update_body<K: Kind>(self) -> Self {
        self.named_body::<galerne_api::v1::Update<K::Spec>>(&format!("Update{}", K::NAME))
    }

    fn named_body<T: ToSchema>(mut self, name: &str) -> Self {
        self.schemas.push((name.to_owned(), T::schema()));
        T::schemas(&mut self.schemas);
        let content = Content::new(Some(Ref::from_schema_name(name)));
        self.operation =
            self.operation.request_body(Some(RequestBodyBuilder::new().content("application/json", content).build()));
        self
    }

    /// Answers with a value.
    pub(crate) fn answers<T: ToSchema>(mut self, status: u16) -> Self {
        let schema = add::<T>(&mut self.schemas);
        self.response(status, "application/json", schema)
    }

    /// Answers with a page of values.
    pub(crate) fn answers_page<T: ToSchema>(mut self) -> Self {
        let item = add::<T>(&mut self.schemas);
        self.response(200, "application/json", page(item)).paged()
    }

    /// Answers with a resource of a kind.
    pub(crate) fn answers_kind<K: Kind>(mut self, status: u16) -> Self {
        add_kind::<K>(&mut self.schemas);
        self.response(status, "application/json", resource_ref::<K>())
    }

    /// Answers with a page of a kind.
    pub(crate) fn answers_kinds<K: Kind>(mut self) -> Self {
        add_kind::<K>(&mut self.schemas);
        self.response(200, "application/json", page(resource_ref::<K>())).paged()
    }

    /// Answers with anything of a media type.
    pub(crate) fn answers_media(self, media: &str) -> Self {
        self.response(
            200,
            media,
            ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue).into(),
        )
    }

    /// Adds the schemas of kinds that are only referred to.
    pub(crate) fn refers<K: Kind>(mut self) -> Self {
        add_kind::<K>(&mut self.schemas);
        self
    }

    fn response(mut self, status: u16, media: &str, schema: RefOr<Schema>) -> Self {
        let response = ResponseBuilder::new()
            .description(if status == 201 { "made" } else { "as asked" })
            .content(media, Content::new(Some(schema)));
        self.operation = self.operation.response(status.to_string(), response.build());
        self
    }

    /// Adds statuses of problems.
    pub(crate) fn may_fail(mut self, statuses: &[u16]) -> Self {
        self.problems.extend_from_slice(statuses);
        self
    }

    /// Adds the operation to a router.
    pub(crate) fn on<H, T>(mut self, router: OpenApiRouter<App>, handler: H) -> OpenApiRouter<App>
    where
        H: Handler<T, App>,
        T: 'static,
    {
        self.problems.sort_unstable();
        self.problems.dedup();
        for status in &self.problems {
            self.operation = self.operation.response(status.to_string(), problem_response());
        }
        let filter = match self.method {
            HttpMethod::Get => MethodFilter::GET,
            HttpMethod::Post => MethodFilter::POST,
            HttpMethod::Put => MethodFilter::PUT,
            _ => MethodFilter::DELETE,
        };
        let mut paths = Paths::new();
        paths.paths.insert(self.path.clone(), PathItem::new(self.method, self.operation));
        let method_router: MethodRouter<App> = MethodRouter::new().on(filter, handler);
        let routes: UtoipaMethodRouter<App> = (self.schemas, paths, method_router);
        router.routes(routes)
    }
}

fn problem_response() -> Response {
    ResponseBuilder::new()
        .description("a problem")
        .content("application/problem+json", Content::new(Some(Ref::from_schema_name("Problem"))))
        .build()
}

fn add<T: ToSchema>(schemas: &mut Schemas) -> RefOr<Schema> {
    let name = T::name();
    T::schemas(schemas);
    schemas.push((name.to_string(), T::schema()));
    Ref::from_schema_name(name).into()
}

fn add_kind<K: Kind>(schemas: &mut Schemas) {
    schemas.push((K::NAME.to_owned(), K::schema()));
    for (name, schema) in [
        (K::Id::name(), K::Id::schema()),
        (K::Spec::name(), K::Spec::schema()),
        (K::Status::name(), K::Status::schema()),
        (galerne_model::ids::TenantId::name(), galerne_model::ids::TenantId::schema()),
        (galerne_model::ids::ProjectId::name(), galerne_model::ids::ProjectId::schema()),
    ] {
        schemas.push((name.into_owned(), schema));
    }
    K::Spec::schemas(schemas);
    K::Status::schemas(schemas);
}

fn page(item: RefOr<Schema>) -> RefOr<Schema> {
    ObjectBuilder::new()
        .property("items", ArrayBuilder::new().items(item))
        .property("next_cursor", ObjectBuilder::new().schema_type(Type::String))
        .required("items")
        .into()
}

pub(crate) fn text(longest: usize) -> RefOr<Schema> {
    ObjectBuilder::new().schema_type(Type::String).max_length(Some(longest)).into()
}
