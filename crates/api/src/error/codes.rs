//! The one table of error codes: text, HTTP status, exit code, retry, severity, title.

use super::{Exit, Retry, Severity};

macro_rules! codes {
    ($($name:ident = $text:literal, $status:literal, $exit:ident, $retry:ident, $severity:ident, $title:literal;)*) => {
        /// Stable public error codes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it is written.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it means, in a few words.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// HTTP status it is sent with.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Exit code of a command that ends with it.
            pub const fn exit(self) -> Exit {
                match self { $(Self::$name => Exit::$exit,)* }
            }

            /// Whether trying again later may help.
            pub const fn retry(self) -> Retry {
                match self { $(Self::$name => Retry::$retry,)* }
            }

            /// How it is logged.
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// Its page: what happened, why, what to do.
            pub const fn page(self) -> &'static str {
                match self { $(Self::$name => include_str!(concat!("../../../../docs/errors/", $text, ".md")),)* }
            }

            /// Reads a code as it is written.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

codes! {
    // The call itself.
    MalformedJson = "malformed_json", 400, Invalid, Never, Caller, "the body is not JSON";
    InvalidBody = "invalid_body", 422, Invalid, Never, Caller, "the body does not have the expected fields";
    InvalidQuery = "invalid_query", 400, Invalid, Never, Caller, "a query parameter or header is wrong";
    InvalidCursor = "invalid_cursor", 400, Invalid, Never, Caller, "the cursor is not one that was handed out";
    InvalidValue = "invalid_value", 422, Invalid, Never, Caller, "a value is outside what is allowed";
    UnsupportedMediaType = "unsupported_media_type", 415, Invalid, Never, Caller, "the content type is not JSON";
    BodyTooLarge = "body_too_large", 413, Invalid, Never, Caller, "the body is larger than allowed";
    MethodNotAllowed = "method_not_allowed", 405, Invalid, Never, Caller, "this path does not take this method";
    RouteNotFound = "route_not_found", 404, NotFound, Never, Caller, "there is no such path";
    RequestTimeout = "request_timeout", 408, Unavailable, Later, Caller, "the request was not received in time";

    // Who calls.
    Unauthenticated = "unauthenticated", 401, Refused, Never, Caller, "no API key was sent";
    InvalidKey = "invalid_key", 401, Refused, Never, Caller, "the API key is not known";
    KeyExpired = "key_expired", 401, Refused, Never, Caller, "the API key has expired";
    KeyRevoked = "key_revoked", 401, Refused, Never, Caller, "the API key was revoked";
    Forbidden = "forbidden", 403, Refused, Never, Caller, "the caller may not do this";
    ScopeMissing = "scope_missing", 403, Refused, Never, Caller, "the API key lacks the scope for this";

    // Resources.
    NotFound = "not_found", 404, NotFound, Never, Caller, "it does not exist, or you may not see it";
    AlreadyExists = "already_exists", 409, Conflict, Never, Caller, "the name is taken";
    GenerationConflict = "generation_conflict", 409, Conflict, Never, Caller, "somebody changed it in between";
    GenerationRequired = "generation_required", 428, Invalid, Never, Caller, "the change does not say which generation it is based on";
    InUse = "in_use", 409, Conflict, Never, Caller, "something still depends on it";
    WrongState = "wrong_state", 409, Conflict, Never, Caller, "its state does not allow this";
    IdempotencyMismatch = "idempotency_mismatch", 422, Invalid, Never, Caller, "the idempotency key was used for another request";

    // Inference.
    ModelNotFound = "model_not_found", 404, NotFound, Never, Caller, "no endpoint has this name";
    ContextLengthExceeded = "context_length_exceeded", 400, Invalid, Never, Caller, "prompt and answer do not fit into the context";
    UnknownParameter = "unknown_parameter", 400, Invalid, Never, Caller, "a field of the request is not known";
    UnsupportedParameter = "unsupported_parameter", 400, Invalid, Never, Caller, "a field of the request is known and not served";
    UnsupportedValue = "unsupported_value", 400, Invalid, Never, Caller, "a field of the request has a value that is not served";
    NotServed = "not_served", 501, Failed, Never, Caller, "this part of the OpenAI or Mistral API is not served";
    OperationNotSupported = "operation_not_supported", 400, Invalid, Never, Caller, "the model cannot do this kind of work";
    RateLimited = "rate_limited", 429, Unavailable, Later, Caller, "a rate or concurrency limit is reached";
    BudgetExhausted = "budget_exhausted", 402, Unavailable, Never, Caller, "a budget does not cover the request";
    EnergyUnknown = "energy_unknown", 402, Unavailable, Never, Caller, "a budget limits energy or carbon, and the endpoint's is not known";
    ResidencyUnmet = "residency_unmet", 403, Refused, Never, Caller, "the request may only be served in countries where the endpoint is not";
    EndpointPaused = "endpoint_paused", 503, Unavailable, Later, Caller, "the endpoint is paused";
    NoReadyReplica = "no_ready_replica", 503, Unavailable, Later, Unexpected, "no replica of the endpoint is ready";
    ReplicaFailed = "replica_failed", 502, Unavailable, Later, Unexpected, "the replica failed while answering";
    DeadlineExceeded = "deadline_exceeded", 504, Unavailable, Later, Unexpected, "the request took longer than allowed";
    Overloaded = "overloaded", 503, Unavailable, Later, Unexpected, "too many requests are in flight";
    MeterFull = "meter_full", 503, Unavailable, Later, Broken, "usage cannot be recorded, so nothing is admitted";
    LeaseLost = "lease_lost", 503, Unavailable, Later, Broken, "this server does not hold the lease of its database";
    ControlPlaneAway = "control_plane_away", 503, Unavailable, Later, Broken, "this gateway does not hear its control plane";
    Draining = "draining", 503, Unavailable, Later, Caller, "the server is shutting down";

    // Files and batches.
    FilesQuotaExceeded = "files_quota_exceeded", 403, Unavailable, Never, Caller, "the project keeps as much in files as it may";
    RangeNotSatisfiable = "range_not_satisfiable", 416, Invalid, Never, Caller, "the file has no bytes in this range";
    LinkInvalid = "link_invalid", 403, Refused, Never, Caller, "the link to a file is wrong, or its time is over";
    ObjectsUnavailable = "objects_unavailable", 503, Unavailable, Later, Broken, "the storage of files does not answer";

    // Models and engines.
    SourceInvalid = "source_invalid", 422, Invalid, Never, Caller, "the model source cannot be read";
    SourceNotFound = "source_not_found", 422, NotFound, Never, Caller, "the model source has no such file";
    SourceForbidden = "source_forbidden", 422, Refused, Never, Caller, "the model source wants a login, or another one";
    SourcePrivate = "source_private", 422, Refused, Never, Caller, "the model source is not on the public internet";
    SourceUnreachable = "source_unreachable", 502, Unavailable, Later, Unexpected, "the model source does not answer";
    DigestMismatch = "digest_mismatch", 422, Invalid, Never, Unexpected, "the bytes are not the ones that were expected";
    GgufInvalid = "gguf_invalid", 422, Invalid, Never, Caller, "the file is not a sound GGUF model";
    ModelUnsupported = "model_unsupported", 422, Invalid, Never, Caller, "the engine cannot run this model";
    WeightsUnreadable = "weights_unreadable", 500, Local, Later, Broken, "the weights of a model cannot be read";
    NotEnoughDisk = "not_enough_disk", 507, Local, Later, Broken, "the disk has no room for this";
    NotEnoughMemory = "not_enough_memory", 507, Local, Later, Unexpected, "the model does not fit into memory";
    RequantiseFailed = "requantise_failed", 500, Failed, Later, Broken, "the weights could not be requantised";
    EngineTooSlow = "engine_too_slow", 500, Local, Never, Broken, "only the baseline engine would run on this processor";
    WorkerMissing = "worker_missing", 500, Local, Never, Broken, "the worker program cannot be found or started";

    // This server and its machine.
    Internal = "internal", 500, Failed, Later, Broken, "something broke inside";
    StoreUnavailable = "store_unavailable", 503, Unavailable, Later, Broken, "the database does not answer";
    ConfigInvalid = "config_invalid", 500, Local, Never, Broken, "the configuration has problems";
    PublicBindNeedsTls = "public_bind_needs_tls", 500, Local, Never, Broken, "a public address is served only with TLS";
    AddressInUse = "address_in_use", 500, Local, Never, Broken, "another program listens on the address";
    DataDirLocked = "data_dir_locked", 500, Local, Never, Broken, "another Galerne uses the data directory";
    DatabaseInUse = "database_in_use", 500, Local, Never, Broken, "another Galerne serves the database";
    DataDirNewer = "data_dir_newer", 500, Local, Never, Broken, "the data directory was written by a newer version";
    DataDirUnusable = "data_dir_unusable", 500, Local, Never, Broken, "the data directory cannot be used";
    TlsInvalid = "tls_invalid", 500, Local, Never, Broken, "the certificate or its key cannot be used";
    LedgerOpen = "ledger_open", 500, Failed, Never, Broken, "the ledger does not close";

    // Gateways and their control plane.
    GatewaySessionOver = "gateway_session_over", 409, Conflict, Later, Unexpected, "the control plane does not know the gateway's session";
    GatewayReplaced = "gateway_replaced", 409, Conflict, Never, Unexpected, "another gateway process has the same spool";

    // The command line.
    ServerUnreachable = "server_unreachable", 503, Unavailable, Later, Caller, "the Galerne server does not answer";
    UsageInvalid = "usage_invalid", 400, Usage, Never, Caller, "the command line is wrong";
    AnswerInvalid = "answer_invalid", 502, Failed, Never, Unexpected, "the server's answer cannot be understood";
}

impl serde::Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for Code {
    /// A newer server may know more codes: those read as `answer_invalid`, and the text beside them still tells.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self::parse(&text).unwrap_or(Self::AnswerInvalid))
    }
}

// By hand: the derive does not see texts that come from a macro's table.
impl utoipa::PartialSchema for Code {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .enum_values(Some(Self::ALL.iter().map(|code| code.as_str())))
            .into()
    }
}

impl utoipa::ToSchema for Code {
    fn name() -> std::borrow::Cow<'static, str> {
        "ErrorCode".into()
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The page of a code, if there is such a code.
pub fn explain(code: &str) -> Option<&'static str> {
    Code::parse(code).map(Code::page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page_that_names_it_and_says_what_to_do() {
        for code in Code::ALL {
            let page = code.page();
            assert!(page.starts_with(&format!("# {code}\n")), "{code}: the page begins with another title");
            for part in ["## What happened", "## What to do"] {
                assert!(page.contains(part), "{code}: no `{part}`");
            }
            assert_eq!(Code::parse(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn titles_follow_the_style_of_user_text() {
        for code in Code::ALL {
            let title = code.title();
            assert!(!title.ends_with('.') && title.chars().next().is_some_and(char::is_lowercase), "{code}: {title}");
        }
    }

    #[test]
    fn only_server_faults_and_overload_are_logged_as_broken() {
        for code in Code::ALL.iter().filter(|code| code.severity() == Severity::Broken) {
            assert!(code.http_status() >= 500, "{code} is the caller's doing but logged as broken");
        }
    }
}
