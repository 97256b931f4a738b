//! The command line: nouns, verbs, options. What they do is in `commands`.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::commands::{
    api, backup, batch, budget, chat, cost, endpoint, env, event, file, key, ledger, model, node, price, principal,
    project, pull, replica, role, route, tenant, top, why,
};
use crate::failure::EXIT_CODES_HELP;
use crate::output::Format;
use crate::up;

/// Galerne: a sovereign AI cloud, from rack to token.
///
/// `galerne up` starts everything on this machine. The other commands talk to a server.
#[derive(Debug, Parser)]
#[command(name = "galerne", version, after_help = EXIT_CODES_HELP, max_term_width = 100, disable_help_flag = true)]
pub struct Arguments {
    /// Options that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// Where the server is [default: the profile, else http://127.0.0.1:8080]
    #[arg(long, global = true, env = "GALERNE_URL", hide_env = true, value_name = "URL")]
    pub url: Option<String>,
    /// The API key to call it with [default: the profile]; better given as GALERNE_API_KEY
    #[arg(long, global = true, env = "GALERNE_API_KEY", hide_env = true, value_name = "KEY")]
    pub key: Option<String>,
    /// Certificate to trust beside the system's authorities, PEM: the server's own, or of who signed it [default: the profile]
    #[arg(long, global = true, env = "GALERNE_CA_FILE", hide_env = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Tenant to look in and to make things in, by name or id; '*' is all of them, for reports [default: that of the key]
    #[arg(long, global = true, value_name = "TENANT")]
    pub tenant: Option<String>,
    /// Project to look in and to make things in, by name or id [default: that of the key]
    #[arg(long, global = true, value_name = "PROJECT")]
    pub project: Option<String>,
    /// How data is written to stdout
    #[arg(long, short = 'o', global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
    /// Say nothing beside the data
    #[arg(long, short = 'q', global = true)]
    pub quiet: bool,
    /// Print help
    #[arg(long, short = 'h', global = true, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start Galerne on this machine, in the foreground
    Up(Box<up::UpArguments>),
    /// Start a gateway of a running Galerne: /v1 alone, in a process of its own
    Gateway(Box<GatewayArguments>),
    /// Talk to an endpoint
    Chat(chat::ChatArguments),
    /// Check a server and a key, and use them from now on: --url, and --key or a key on stdin
    Login,
    /// Who this key acts for, and what it may do
    Whoami,
    /// Print the variables that other programs read: eval "$(galerne env --openai)"
    Env(env::EnvArguments),

    /// Models: weights that can be served
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Downloads of models
    #[command(subcommand)]
    Pull(pull::PullCommand),
    /// Endpoints: models at stable names
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Replicas: engines behind endpoints
    #[command(subcommand)]
    Replica(replica::ReplicaCommand),
    /// Nodes: servers we manage
    #[command(subcommand)]
    Node(node::NodeCommand),

    /// Files: requests of batches, their answers, and others that are kept
    #[command(subcommand)]
    File(file::FileCommand),
    /// Batches: requests that are answered when there is room, at a discount
    #[command(subcommand)]
    Batch(batch::BatchCommand),

    /// API keys
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Projects: owners of resources inside a tenant
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// Tenants: customers that are isolated and pay
    #[command(subcommand)]
    Tenant(tenant::TenantCommand),
    /// Principals: users and service accounts
    #[command(subcommand)]
    Principal(principal::PrincipalCommand),
    /// Roles given to principals
    #[command(subcommand, alias = "role-binding")]
    Role(role::RoleCommand),

    /// What was used and what it cost, with energy and carbon
    Cost(cost::CostArguments),
    /// Usage records: one per request
    Usage(cost::UsageArguments),
    /// Budgets: limits on money, energy and carbon
    #[command(subcommand)]
    Budget(budget::BudgetCommand),
    /// Prices per million tokens
    #[command(subcommand, alias = "price-book")]
    Price(price::PriceCommand),
    /// The ledger: double entry for tokens, euros, energy, carbon
    #[command(subcommand)]
    Ledger(ledger::LedgerCommand),

    /// Who did what to which resource, and how it was decided
    Events(event::EventArguments),
    /// What endpoints and replicas are doing now: load, rates, first tokens, watts, breakers
    Top(top::TopArguments),
    /// Why something is as it is: endpoint/NAME, budget/NAME, batch_ID, request_ID, event_ID
    Why(why::WhyArguments),
    /// How requests find their replicas
    #[command(subcommand)]
    Route(route::RouteCommand),
    /// What an error code means and what to do
    Explain(why::ExplainArguments),

    /// Copies of the state
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Bring a backup back into an empty data directory, with no server running on it
    Restore(Box<RestoreArguments>),
    /// Bring a PostgreSQL database to this version's schema, with no server running on it
    Migrate(Box<ServerArguments>),
    /// The server's configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Call any route of the API
    Api(api::ApiArguments),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the version of this program, and of the server if one answers
    Version,
}

/// Options of `galerne gateway`.
#[derive(Debug, Clone, Args)]
pub struct GatewayArguments {
    /// Where `galerne up` answers: https, or http on this machine
    #[arg(long, value_name = "URL")]
    pub control: String,
    /// File with an API key of scope `gateway`: galerne key create NAME --scope gateway
    #[arg(long, value_name = "FILE")]
    pub key_file: PathBuf,
    /// What it is called at the control plane [default: this host and its directory]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Directory for usage on its way and logs, one for each gateway [default: gateway/ below the one of `galerne up`]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<String>,
    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: String,
    /// Certificate chain, PEM; needed for an address that other machines can reach
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// How log lines are written to stderr: text, json, or auto (text at a terminal)
    #[arg(long, alias = "log-format", value_name = "FORMAT")]
    pub log: Option<String>,
    /// Write {"url"} here once requests are answered, for scripts
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
}

impl GatewayArguments {
    /// The options that a gateway shares with a server, by their names in the configuration. `data` is where its
    /// directory is when none was given.
    pub fn flags(&self, data: String) -> Vec<(&'static str, String)> {
        [
            ("data", Some(self.data.clone().unwrap_or(data))),
            ("listen", Some(self.listen.clone())),
            ("tls_cert", self.tls_cert.clone()),
            ("tls_key", self.tls_key.clone()),
            ("log", self.log.clone()),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
    }
}

/// Options of `galerne restore`.
#[derive(Debug, Clone, Args)]
pub struct RestoreArguments {
    /// Folder of the backup, as `galerne backup list` names it
    pub backup: PathBuf,
    /// Where to write it; the data directory must be new or empty
    #[command(flatten)]
    pub server: ServerArguments,
    /// Do not ask
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Verbs of `galerne config`.
#[derive(Debug, Clone, Subcommand)]
pub enum ConfigCommand {
    /// Check the configuration: every problem at once
    Check(Box<ServerArguments>),
    /// Show what is in force and where each value comes from; passwords are hidden
    Show(Box<ServerArguments>),
}

/// Options of a server: each is also a line of the configuration file and an environment variable, as `galerne config show` lists.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Options of the server")]
pub struct ServerArguments {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory for state, models and logs [default: $XDG_DATA_HOME/galerne, else ~/.local/share/galerne]
    #[arg(long, value_name = "FOLDER")]
    pub data: Option<String>,
    /// Address and port to listen on [default: 127.0.0.1:8080]; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Certificate chain, PEM; needed for an address that other machines can reach
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Key of the certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Database: sqlite:FILE or postgres://… [default: galerne.db in the data directory]
    #[arg(long, value_name = "ADDRESS")]
    pub database: Option<String>,
    /// Grid zone of this site, for carbon intensity [default: FR]
    #[arg(long, value_name = "ZONE")]
    pub zone: Option<String>,
    /// File of hourly carbon intensities [default: the yearly mean of the zone]
    #[arg(long, value_name = "FILE")]
    pub grid: Option<String>,
    /// Energy of the facility per energy of its computers [default: 1.000]
    #[arg(long, value_name = "NUMBER")]
    pub pue: Option<String>,
    /// Power of the whole host doing nothing [default: by a stated model]
    #[arg(long, value_name = "WATTS")]
    pub idle_watts: Option<String>,
    /// Power of one busy processor thread above idle [default: by a stated model]
    #[arg(long, value_name = "WATTS")]
    pub active_watts: Option<String>,
    /// How log lines are written to stderr: text, json, or auto (text at a terminal)
    #[arg(long, alias = "log-format", value_name = "FORMAT")]
    pub log: Option<String>,
    /// Who may pull models from addresses outside the public internet: operators or everyone [default: operators]
    #[arg(long, value_name = "WHO")]
    pub private_sources: Option<String>,
    /// Most memory of a gateway for what replicas have of prompts [default: 64]; 0 routes by load alone
    #[arg(long, value_name = "MIB")]
    pub prefix_index_mib: Option<String>,
    /// Where every event is sent, such as a SIEM, signed; https, or http on this machine
    #[arg(long, value_name = "URL")]
    pub events_url: Option<String>,
    /// File with the secret that signs events: whsec_ and the base64 of 24 to 64 bytes
    #[arg(long, value_name = "FILE")]
    pub events_secret_file: Option<String>,
    /// Where uploaded files are: a folder or s3://BUCKET/PREFIX [default: objects in the data directory]
    #[arg(long, value_name = "PLACE")]
    pub objects: Option<String>,
    /// Address of the S3 server [default: Amazon's]
    #[arg(long, value_name = "URL")]
    pub objects_endpoint: Option<String>,
    /// Region of the S3 server [default: us-east-1]
    #[arg(long, value_name = "REGION")]
    pub objects_region: Option<String>,
    /// File with aws_access_key_id and aws_secret_access_key [default: the variables AWS_…]
    #[arg(long, value_name = "FILE")]
    pub objects_credentials_file: Option<String>,
    /// Most that one project keeps in files, in gigabytes [default: 100]
    #[arg(long, value_name = "GB")]
    pub project_files_gb: Option<String>,
    /// The worker program [default: galerne-worker beside this program]
    #[arg(long, value_name = "PROGRAM")]
    pub worker: Option<String>,
}

impl ServerArguments {
    /// The options that were given, by their names in the configuration.
    pub fn flags(&self) -> Vec<(&'static str, String)> {
        [
            ("data", &self.data),
            ("listen", &self.listen),
            ("tls_cert", &self.tls_cert),
            ("tls_key", &self.tls_key),
            ("database", &self.database),
            ("zone", &self.zone),
            ("grid", &self.grid),
            ("pue", &self.pue),
            ("idle_watts", &self.idle_watts),
            ("active_watts", &self.active_watts),
            ("log", &self.log),
            ("private_sources", &self.private_sources),
            ("prefix_index_mib", &self.prefix_index_mib),
            ("events_url", &self.events_url),
            ("events_secret_file", &self.events_secret_file),
            ("objects", &self.objects),
            ("objects_endpoint", &self.objects_endpoint),
            ("objects_region", &self.objects_region),
            ("objects_credentials_file", &self.objects_credentials_file),
            ("project_files_gb", &self.project_files_gb),
            ("worker", &self.worker),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect()
    }
}
