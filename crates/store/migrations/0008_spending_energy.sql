-- What was spent of energy and carbon beside money, for budgets that limit them. Rows of before are filled from the days.

ALTER TABLE spending ADD COLUMN millijoules BIGINT NOT NULL DEFAULT 0;
ALTER TABLE spending ADD COLUMN co2e_micrograms BIGINT NOT NULL DEFAULT 0;
