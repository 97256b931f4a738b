-- The terms on which a request was answered: the price of a token in micros per million, the service tier, the country in
-- which it was answered (its two letters as one number). Records of before have none.

ALTER TABLE usage ADD COLUMN prompt_price BIGINT;
ALTER TABLE usage ADD COLUMN cached_price BIGINT;
ALTER TABLE usage ADD COLUMN completion_price BIGINT;
ALTER TABLE usage ADD COLUMN service_tier BIGINT;
ALTER TABLE usage ADD COLUMN country BIGINT;

-- Reports of an hour or a day look at its records alone.

CREATE INDEX usage_started ON usage (started_at);
