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

