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

-- A usage record says for which batch its request was made, and at what share of the price.

ALTER TABLE usage ADD COLUMN batch_no BIGINT;
ALTER TABLE usage ADD COLUMN price_percent BIGINT;
