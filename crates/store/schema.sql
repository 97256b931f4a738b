-- The schema as the migrations make it, for reading. A test makes a database from this text and one from the
-- migrations and compares them, on SQLite and on PostgreSQL.

CREATE TABLE schema_version (
    version BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, applied_at BIGINT NOT NULL
);

-- Resources: one table per kind, all of one shape. `spec` is what was asked, `status` what is seen, both JSON text.
-- Instants are microseconds since 1970 in UTC. A name is unique among the living rows of one owner.

CREATE TABLE tenant (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX tenant_name ON tenant (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE project (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX project_name ON project (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE principal (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX principal_name ON principal (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE role_binding (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX role_binding_name ON role_binding (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE api_key (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX api_key_name ON api_key (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE model (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX model_name ON model (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE pull (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX pull_name ON pull (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE endpoint (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX endpoint_name ON endpoint (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE replica (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX replica_name ON replica (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE node (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX node_name ON node (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE budget (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX budget_name ON budget (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

CREATE TABLE price_book (
    id TEXT NOT NULL PRIMARY KEY, tenant_id TEXT, project_id TEXT, name TEXT NOT NULL, generation BIGINT NOT NULL,
    spec TEXT NOT NULL, status TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, deleted_at BIGINT
);
CREATE UNIQUE INDEX price_book_name ON price_book (COALESCE(tenant_id, ''), COALESCE(project_id, ''), name) WHERE deleted_at IS NULL;

-- What happened, in order. `sequence` has no gaps: the counter moves in the transaction that writes the event.

CREATE TABLE counter (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);

CREATE TABLE event (
    sequence BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    at BIGINT NOT NULL,
    action TEXT NOT NULL,
    decision TEXT NOT NULL,
    tenant_id TEXT,
    project_id TEXT,
    resource TEXT,
    principal_id TEXT,
    key_id TEXT,
    component TEXT NOT NULL,
    address TEXT,
    request_id TEXT,
    before_digest TEXT,
    after_digest TEXT,
    text TEXT NOT NULL
);
CREATE INDEX event_tenant ON event (tenant_id, sequence);
CREATE INDEX event_project ON event (project_id, sequence);
CREATE INDEX event_resource ON event (resource, sequence);
CREATE INDEX event_request ON event (request_id) WHERE request_id IS NOT NULL;

-- Who may act (lease), what is still to be done (outbox), what was answered already (idempotency).

CREATE TABLE lease (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    since BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE outbox (
    id BIGINT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    payload TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    not_before BIGINT NOT NULL,
    claim_epoch BIGINT NOT NULL,
    claimed_until BIGINT NOT NULL,
    UNIQUE (kind, key)
);
CREATE INDEX outbox_due ON outbox (kind, not_before, id);

CREATE TABLE idempotency (
    principal_id TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    status BIGINT,
    body TEXT,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (principal_id, key)
);
CREATE INDEX idempotency_expiry ON idempotency (expires_at);

-- The ledger. Ids are kept once in `ledger_ref`; rows carry its numbers, so ten million records stay small.
-- Quantities: tokens, euro micros (and picos below a micro), millijoules, micrograms of CO2e.
-- INVARIANT: nothing in `usage`, `transfer`, `reading`, `reversal` is ever changed or deleted.
-- The order of columns is that of the check's sums: a row is decoded from the left.

CREATE TABLE ledger_ref (
    no BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE
);

CREATE TABLE usage (
    project_no BIGINT NOT NULL,
    source BIGINT NOT NULL,
    sequence BIGINT NOT NULL CHECK (sequence >= 1),
    held_micros BIGINT NOT NULL CHECK (held_micros >= 0),
    overrun_micros BIGINT NOT NULL CHECK (overrun_micros >= 0),
    overrun_picos BIGINT NOT NULL CHECK (overrun_picos >= 0),
    prompt_tokens BIGINT NOT NULL CHECK (prompt_tokens >= 0),
    cached_tokens BIGINT NOT NULL CHECK (cached_tokens >= 0),
    completion_tokens BIGINT NOT NULL CHECK (completion_tokens >= 0),
    micros BIGINT NOT NULL CHECK (micros >= 0),
    picos BIGINT NOT NULL CHECK (picos >= 0 AND picos < 1000000),
    millijoules BIGINT NOT NULL CHECK (millijoules >= 0),
    co2e_micrograms BIGINT NOT NULL CHECK (co2e_micrograms >= 0),
    request_high BIGINT NOT NULL,
    request_low BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    duration_micros BIGINT NOT NULL,
    tenant_no BIGINT NOT NULL,
    principal_no BIGINT NOT NULL,
    key_no BIGINT NOT NULL,
    endpoint_no BIGINT NOT NULL,
    replica_no BIGINT,
    price_book_no BIGINT,
    operation BIGINT NOT NULL,
    outcome BIGINT NOT NULL,
    http_status BIGINT NOT NULL,
    energy_method BIGINT NOT NULL,
    first_token_micros BIGINT,
    batch_no BIGINT,
    price_percent BIGINT,
    prompt_price BIGINT,
    cached_price BIGINT,
    completion_price BIGINT,
    service_tier BIGINT,
    country BIGINT,
    PRIMARY KEY (project_no, source, sequence)
) /*sqlite: WITHOUT ROWID */;
CREATE UNIQUE INDEX usage_source ON usage (source, sequence);
CREATE INDEX usage_request ON usage (request_high, request_low);
CREATE INDEX usage_started ON usage (started_at);

CREATE TABLE transfer (
    to_no BIGINT NOT NULL,
    from_no BIGINT NOT NULL,
    source BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    part BIGINT NOT NULL,
    voided_micros BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    micros BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL,
    CHECK (to_no <> from_no),
    PRIMARY KEY (to_no, from_no, source, sequence, part)
) /*sqlite: WITHOUT ROWID */;

CREATE TABLE balance (
    owner_no BIGINT NOT NULL PRIMARY KEY,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    micros BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL
);

CREATE TABLE spool_cursor (
    source BIGINT NOT NULL PRIMARY KEY,
    through BIGINT NOT NULL
);

-- What tenants, projects and keys spent, in all (period_start 0) and by calendar month of admission: what budgets are compared with.
CREATE TABLE spending (
    subject_no BIGINT NOT NULL,
    period_start BIGINT NOT NULL,
    micros BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    millijoules BIGINT NOT NULL DEFAULT 0,
    co2e_micrograms BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (subject_no, period_start)
);

-- Sums of usage by UTC day of admission, for cost reports.
CREATE TABLE usage_daily (
    day BIGINT NOT NULL,
    project_no BIGINT NOT NULL,
    endpoint_no BIGINT NOT NULL,
    key_no BIGINT NOT NULL,
    principal_no BIGINT NOT NULL,
    tenant_no BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    cached_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    micros BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL,
    PRIMARY KEY (day, project_no, endpoint_no, key_no, principal_no)
);

-- Energy of requests that no reading covers yet, by node; node_no 0 is what runs outside our meters and is never covered.
CREATE TABLE energy_pending (
    node_no BIGINT NOT NULL PRIMARY KEY,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL
);

CREATE TABLE reading (
    no BIGINT NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    node_no BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT NOT NULL,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL,
    usage_millijoules BIGINT NOT NULL,
    usage_co2e_micrograms BIGINT NOT NULL,
    overhead_millijoules BIGINT NOT NULL,
    overhead_co2e_micrograms BIGINT NOT NULL,
    carry_co2e BIGINT NOT NULL,
    carry_overhead BIGINT NOT NULL,
    carry_overhead_co2e BIGINT NOT NULL,
    pue_thousandths BIGINT NOT NULL,
    method BIGINT NOT NULL,
    busy_cpu_micros BIGINT NOT NULL,
    zone TEXT NOT NULL,
    intensity_mg_per_kwh BIGINT NOT NULL,
    intensity_source TEXT NOT NULL
);
CREATE INDEX reading_node ON reading (node_no, no);

CREATE TABLE reversal (
    no BIGINT NOT NULL PRIMARY KEY,
    of_source BIGINT NOT NULL,
    of_sequence BIGINT NOT NULL,
    at BIGINT NOT NULL,
    UNIQUE (of_source, of_sequence)
);

-- Keys that follow others by rotation. A line is named by its first key, which has no row here. Budgets on a key count
-- all keys of its line; rows outlive their keys, as what was spent does.

CREATE TABLE key_line (
    key_id TEXT NOT NULL PRIMARY KEY,
    line_id TEXT NOT NULL
);
CREATE INDEX key_line_members ON key_line (line_id);

-- Energy of replicas with a meter of their own, and what it says of requests that were settled by an estimate.

-- Readings of one replica alone, with where its energy was read and how requests shared it.
CREATE TABLE replica_reading (
    reading_no BIGINT NOT NULL PRIMARY KEY,
    replica_no BIGINT NOT NULL,
    how TEXT NOT NULL
);
CREATE INDEX replica_reading_replica ON replica_reading (replica_no, reading_no);

-- What a usage record's energy and carbon changed by once they were measured; may be less than nothing. Only ever added,
-- once per record.
CREATE TABLE energy_correction (
    source BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    reading_no BIGINT NOT NULL,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL,
    method BIGINT NOT NULL,
    PRIMARY KEY (source, sequence)
);

-- Files of projects. The bytes are objects elsewhere: a row that is deleted stays until its object is gone.

CREATE TABLE file (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    expires_at BIGINT,
    deleted_at BIGINT,
    body TEXT NOT NULL
);
CREATE INDEX file_of_project ON file (project_id, id);
CREATE INDEX file_expires ON file (expires_at);
CREATE INDEX file_deleted ON file (deleted_at);

-- What a project keeps: one row that every writer of the project takes, so that no two of them pass its limit together.

CREATE TABLE file_storage (
    project_id TEXT NOT NULL PRIMARY KEY,
    bytes BIGINT NOT NULL,
    files BIGINT NOT NULL
);

-- Batches. `cancel_at` is written by who cancels; everything else by the one engine that runs them.

CREATE TABLE batch (
    id TEXT NOT NULL PRIMARY KEY,
    project_id TEXT NOT NULL,
    ended BIGINT NOT NULL,
    cancel_at BIGINT,
    body TEXT NOT NULL
);
CREATE INDEX batch_of_project ON batch (project_id, id);
CREATE INDEX batch_ended ON batch (ended);

-- What is done of a batch that runs: the answers are an object, their lines and usage records are here. Usage records
-- are kept until the gateway has them.

CREATE TABLE batch_segment (
    batch_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    object TEXT NOT NULL,
    lines TEXT NOT NULL,
    records TEXT NOT NULL,
    settled BIGINT NOT NULL,
    PRIMARY KEY (batch_id, number)
);

-- Shares of budgets: what is lent to gateways in processes of their own. What is settled of a spool's usage is taken from
-- the spool's shares in the same transaction. `picos` is what is left below a micro.

CREATE TABLE budget_share (
    source BIGINT NOT NULL,
    budget_id TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    period_start BIGINT NOT NULL,
    micros BIGINT NOT NULL,
    picos BIGINT NOT NULL,
    millijoules BIGINT NOT NULL,
    co2e_micrograms BIGINT NOT NULL,
    PRIMARY KEY (source, budget_id, subject_id, period_start)
);
CREATE INDEX budget_share_of_budget ON budget_share (budget_id);
CREATE INDEX budget_share_of_subject ON budget_share (subject_id);

-- Spools that an operator has given up: their shares are free again, and what they still hold is never settled.

CREATE TABLE forsaken_spool (
    source BIGINT NOT NULL PRIMARY KEY,
    forsaken_at BIGINT NOT NULL
);
