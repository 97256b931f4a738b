-- What happened, in order. `sequence` has no gaps: the counter moves in the transaction that writes the event.

CREATE TABLE counter (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
INSERT INTO counter (name, value) VALUES ('event', 0);

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
