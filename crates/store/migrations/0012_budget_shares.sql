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
