-- Since when a lease is with its holder, for whoever is refused.

ALTER TABLE lease ADD COLUMN since BIGINT NOT NULL DEFAULT 0;
