-- Who may act (lease), what is still to be done (outbox), what was answered already (idempotency).

CREATE TABLE lease (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
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
INSERT INTO counter (name, value) VALUES ('outbox', 0);

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
