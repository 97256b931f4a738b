//! The table of options: name, environment variable, default, meaning. Reference page and example come from it.

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Name in the file; the flag is the same with `-` for `_`.
    pub name: &'static str,
    /// Environment variable.
    pub env: &'static str,
    /// Default as it would be typed; empty when computed or unset.
    pub default: &'static str,
    /// What it is, with its unit.
    pub doc: &'static str,
    /// Version it came with.
    pub since: &'static str,
    /// Whether its value may hold a password.
    pub secret: bool,
}

const fn key(name: &'static str, env: &'static str, default: &'static str, doc: &'static str) -> Key {
    Key { name, env, default, doc, since: "0.1.0", secret: false }
}

/// Every option there is.
pub const KEYS: &[Key] = &[
    key("data", "GALERNE_DATA", "", "directory for state, models and logs; unset means `$XDG_DATA_HOME/galerne`"),
    key("listen", "GALERNE_LISTEN", "127.0.0.1:8080", "address and port to listen on; port 0 takes a free one"),
    key(
        "tls_cert",
        "GALERNE_TLS_CERT",
        "",
        "certificate chain in PEM; needed for any address other machines can reach",
    ),
    key("tls_key", "GALERNE_TLS_KEY", "", "key of the certificate in PEM"),
    Key {
        secret: true,
        ..key(
            "database",
            "GALERNE_DATABASE",
            "",
            "`sqlite:FILE` or `postgres://…`; unset means `galerne.db` in the data directory",
        )
    },
    key("zone", "GALERNE_ZONE", "FR", "grid zone of this site, for carbon intensity"),
    key("grid", "GALERNE_GRID", "", "file of hourly carbon intensities; unset means the yearly mean of the zone"),
    key("pue", "GALERNE_PUE", "1.000", "energy of the facility per energy of its computers, at most three decimals"),
    key(
        "idle_watts",
        "GALERNE_IDLE_WATTS",
        "",
        "power of the whole host doing nothing, in watts; unset means by a stated model",
    ),
    key(
        "active_watts",
        "GALERNE_ACTIVE_WATTS",
        "",
        "power of one busy processor thread above idle, in watts; unset means by a stated model",
    ),
    key("log", "GALERNE_LOG", "auto", "`json`, `text`, or `auto`: text at a terminal, JSON elsewhere"),
    key(
        "private_sources",
        "GALERNE_PRIVATE_SOURCES",
        "operators",
        "who may pull models from addresses outside the public internet: `operators` or `everyone`",
    ),
    key(
        "prefix_index_mib",
        "GALERNE_PREFIX_INDEX_MIB",
        "64",
        "most memory of a gateway for what replicas have of prompts, in MiB; 0 routes by load alone",
    ),
    Key {
        secret: true,
        ..key(
            "events_url",
            "GALERNE_EVENTS_URL",
            "",
            "where every event is sent, signed as Standard Webhooks says; `https`, or `http` on this machine",
        )
    },
    key(
        "events_secret_file",
        "GALERNE_EVENTS_SECRET_FILE",
        "",
        "file with the secret that signs events: `whsec_` and the base64 of 24 to 64 bytes",
    ),
    key(
        "objects",
        "GALERNE_OBJECTS",
        "",
        "where files of `/v1/files` are: a folder, or `s3://BUCKET/PREFIX`; unset means `objects` in the data directory",
    ),
    key("objects_endpoint", "GALERNE_OBJECTS_ENDPOINT", "", "address of the S3 server; unset means Amazon's"),
    key("objects_region", "GALERNE_OBJECTS_REGION", "us-east-1", "region of the S3 server"),
    key(
        "objects_credentials_file",
        "GALERNE_OBJECTS_CREDENTIALS_FILE",
        "",
        "file with `aws_access_key_id` and `aws_secret_access_key`; unset means the variables of these names in capitals",
    ),
    key("project_files_gb", "GALERNE_PROJECT_FILES_GB", "100", "most that one project keeps in files, in gigabytes"),
    key("worker", "GALERNE_WORKER", "", "the worker program; unset means `galerne-worker` beside this one"),
];

/// The option of a name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}
