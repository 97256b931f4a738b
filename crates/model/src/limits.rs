//! Every bound in one place, each with its why. Units are in the names.

/// Longest list page; keeps one reply under a megabyte.
pub const PAGE_MAX: u32 = 500;
/// List page when the caller names none.
pub const PAGE_DEFAULT: u32 = 50;
/// Longest resource name: fits a DNS label, so names can become host names later.
pub const NAME_MAX_CHARS: usize = 63;
/// Longest free text (descriptions, reasons).
pub const TEXT_MAX_CHARS: usize = 2_000;
/// Largest request body on `/api/v1`: specs are small.
pub const API_BODY_MAX_BYTES: usize = 1024 * 1024;
/// Largest request body on `/v1`: 8 MiB holds a 2-million-token prompt as text.
pub const INFERENCE_BODY_MAX_BYTES: usize = 8 * 1024 * 1024;
/// Longest head of a request, all headers together.
pub const HEAD_MAX_BYTES: usize = 64 * 1024;
/// Longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_MAX_CHARS: usize = 255;
/// How long an idempotency key is remembered: longer than any sane retry.
pub const IDEMPOTENCY_TTL_HOURS: i64 = 48;
/// Longest life of one inference request, from head to last byte.
pub const REQUEST_DEADLINE_MS: u64 = 600_000;
/// Longest wait for a replica while an endpoint comes back from zero.
pub const WAKE_DEADLINE_MS: u64 = 120_000;
/// Longest wait of one write towards a client that reads slowly.
pub const CLIENT_WRITE_TIMEOUT_MS: u64 = 30_000;
/// Requests in flight in one gateway process; past it new ones get 503.
pub const GATEWAY_IN_FLIGHT_MAX: usize = 2_048;
/// Memory of a gateway for what replicas have of prompts, unless configured: two million blocks of 256 bytes.
pub const PREFIX_INDEX_BYTES_DEFAULT: usize = 64 * 1024 * 1024;
/// Requests that may wait for one endpoint to wake.
pub const WAKE_QUEUE_MAX: usize = 256;
/// Requests that wait in line before one endpoint that is at its limit of concurrent requests.
pub const LINE_MAX: usize = 256;
/// The same of each tier, lowest first: the highest may fill the line.
pub const LINE_OF_TIER_MAX: [usize; 3] = [64, 192, 256];
/// The longest wait in line by tier, lowest first; one that is expected to be longer is refused at once.
pub const LINE_PATIENCE_MS: [u64; 3] = [1_000, 10_000, 30_000];
/// Refusals on `/v1` are events one by one up to the numbers below; the others of this long become one event with a count.
pub const DENIAL_WINDOW_MS: u64 = 60_000;
/// Refusals of one caller, code and endpoint that keep their request's id in a window: enough to ask why, few enough
/// that a client in a loop writes little.
pub const DENIALS_SINGLE_PER_GROUP: u32 = 10;
/// Refusals of callers with a key that keep their request's id in a window.
pub const DENIALS_SINGLE_KNOWN_MAX: u32 = 300;
/// The same for strangers, who could otherwise fill a disk: one per second.
pub const DENIALS_SINGLE_STRANGERS_MAX: u32 = 60;
/// Groups of callers with a key counted apart in a window; those of more are counted by their code only.
pub const DENIAL_GROUPS_KNOWN_MAX: usize = 256;
/// The same for strangers, who can have as many addresses as they like.
pub const DENIAL_GROUPS_STRANGERS_MAX: usize = 64;
/// How often events of refusals are written: what a kill of the process takes with it.
pub const DENIAL_WRITE_INTERVAL_MS: u64 = 1_000;
/// Bytes of usage records a gateway keeps when nobody takes them; past it the gateway stops admitting.
pub const SPOOL_MAX_BYTES: u64 = 256 * 1024 * 1024;
/// Records in one settlement transaction: at this size a commit is amortised and takes tens of milliseconds.
pub const SETTLE_BATCH_MAX: usize = 2_000;
/// Longest time a usage record waits to be shipped.
pub const SHIP_INTERVAL_MS: u64 = 200;
/// Restarts are delayed by this, doubling from the first to the second.
pub const RESTART_BACKOFF_MIN_MS: u64 = 500;
/// Longest delay between two restarts of a replica.
pub const RESTART_BACKOFF_MAX_MS: u64 = 60_000;
/// Longest start of a worker: a large model from a slow disk.
pub const REPLICA_START_DEADLINE_MS: u64 = 600_000;
/// Time a worker has to finish its requests after it is told to stop.
pub const REPLICA_STOP_GRACE_MS: u64 = 20_000;
/// A running worker whose probes fail for this long is restarted: longer than any batch blocks it.
pub const REPLICA_UNREADY_MAX_MS: u64 = 30_000;
/// A replica that was ready for this long has its restarts forgotten.
pub const REPLICA_STABLE_MS: u64 = 600_000;
/// Replicas of one endpoint on one node.
pub const REPLICAS_MAX: u32 = 16;
/// Readiness probes of running replicas.
pub const PROBE_INTERVAL_MS: u64 = 2_000;
/// Answer time after which a probe has failed.
pub const PROBE_TIMEOUT_MS: u64 = 2_000;
/// How often the host's energy is read.
pub const READING_INTERVAL_MS: u64 = 10_000;
/// Time left to in-flight requests at shutdown.
pub const DRAIN_DEADLINE_MS: u64 = 30_000;
/// Largest file on `/v1`: OpenAI's and Mistral's limit.
pub const FILE_MAX_BYTES: u64 = 512 * 1024 * 1024;
/// Largest file of requests for a batch: OpenAI's limit.
pub const BATCH_FILE_MAX_BYTES: u64 = 200_000_000;
/// Files of one project: the longest page of OpenAI's list.
pub const FILES_PER_PROJECT_MAX: u64 = 10_000;
/// Uploads at once: each has up to two parts of 8 MiB in memory.
pub const FILE_UPLOADS_MAX: usize = 8;
/// Of them, those of one project: a tenant with slow lines leaves places to others.
pub const FILE_UPLOADS_PER_PROJECT_MAX: usize = 2;
/// Requests of one batch: OpenAI's limit.
pub const BATCH_REQUESTS_MAX: u64 = 50_000;
/// Batches of one project that have not ended: each has its lines in memory.
pub const BATCHES_OPEN_MAX: u64 = 100;
/// Control-plane lease: a holder that has not renewed for this long has lost it.
pub const LEASE_TTL_MS: i64 = 6_000;
