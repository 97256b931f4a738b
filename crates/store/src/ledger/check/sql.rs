//! The statements of the check. The two large ones read their tables once, in the order of their keys, without sorting.

macro_rules! sum {
    ($($column:literal),*) => {
        concat!($(", CAST(COALESCE(SUM(", $column, "), 0) AS BIGINT) AS ", $column),*)
    };
}

macro_rules! commodities {
    () => {
        sum!("prompt_tokens", "cached_tokens", "completion_tokens", "micros", "picos", "millijoules", "co2e_micrograms")
    };
}

use super::fingerprint::of_record;

macro_rules! usage {
    ($from:expr) => {
        concat!(
            "SELECT project_no, source, COUNT(*) AS n, MAX(sequence) AS last_sequence",
            sum!("held_micros", "overrun_micros", "overrun_picos"),
            commodities!(),
            ", CAST(COALESCE(SUM(",
            of_record!(),
            "), 0) AS BIGINT) AS fingerprint FROM ",
            $from,
            " GROUP BY project_no, source"
        )
    };
}

/// Usage records with the energy they were corrected to.
macro_rules! corrected {
    () => {
        "(SELECT u.project_no, u.source, u.sequence, u.started_at, u.key_no, u.endpoint_no, u.principal_no, u.tenant_no, \
         u.held_micros, u.overrun_micros, u.overrun_picos, u.prompt_tokens, u.cached_tokens, u.completion_tokens, u.micros, \
         u.picos, u.millijoules + COALESCE(c.millijoules, 0) AS millijoules, \
         u.co2e_micrograms + COALESCE(c.co2e_micrograms, 0) AS co2e_micrograms FROM usage u \
         LEFT JOIN energy_correction c ON c.source = u.source AND c.sequence = u.sequence) AS usage"
    };
}

/// Whether anything was corrected: where nothing was, the records are read alone.
pub(super) const HAS_CORRECTIONS: &str = "SELECT reading_no FROM energy_correction LIMIT 1";

pub(super) const USAGE: &str = usage!("usage");

pub(super) const USAGE_CORRECTED: &str = usage!(corrected!());

/// Corrections whose transfer is missing or says something else.
pub(super) const CORRECTIONS: &str = "SELECT c.source, c.sequence FROM energy_correction c \
    JOIN usage u ON u.source = c.source AND u.sequence = c.sequence LEFT JOIN transfer t ON t.to_no = u.project_no \
    AND t.from_no = 1 AND t.source = c.source AND t.sequence = c.sequence AND t.part = 7 \
    WHERE u.project_no = $1 AND (COALESCE(t.millijoules, 0) <> c.millijoules \
    OR COALESCE(t.co2e_micrograms, 0) <> c.co2e_micrograms) ORDER BY c.source, c.sequence LIMIT $2";

/// The sums of days that the records of one project make. Sorts them all: only for a project whose fingerprint differs.
pub(super) const GROUPED: &str = concat!(
    "SELECT day, key_no, endpoint_no, principal_no, tenant_no, COUNT(*) AS requests",
    commodities!(),
    " FROM (SELECT started_at / 86400000000 AS day, key_no, endpoint_no, principal_no, tenant_no, prompt_tokens, ",
    "cached_tokens, completion_tokens, micros - overrun_micros AS micros, picos - overrun_picos AS picos, millijoules, ",
    "co2e_micrograms FROM ",
    corrected!(),
    " WHERE project_no = $1) AS records ",
    "GROUP BY day, key_no, endpoint_no, principal_no, tenant_no"
);

pub(super) const TRANSFERS: &str = concat!(
    "SELECT to_no, from_no, CAST(COALESCE(SUM(CASE WHEN part = 7 THEN 0 ELSE 1 END), 0) AS BIGINT) AS n",
    sum!("voided_micros"),
    commodities!(),
    " FROM transfer GROUP BY to_no, from_no"
);

pub(super) const DUPLICATES: &str = "SELECT request_high, request_low, COUNT(*) AS n FROM usage \
    GROUP BY request_high, request_low HAVING COUNT(*) > 1 LIMIT $1";

pub(super) const DIFFERING: &str = "SELECT u.source, u.sequence, u.request_high, u.request_low, \
    CAST(CASE WHEN t.source IS NULL THEN 1 WHEN u.held_micros <> t.micros + t.voided_micros THEN 2 ELSE 3 END AS BIGINT) \
    AS what FROM usage u LEFT JOIN transfer t ON t.to_no = u.project_no AND t.from_no = 1 AND t.source = u.source \
    AND t.sequence = u.sequence AND t.part = 0 WHERE u.project_no = $1 AND (t.source IS NULL \
    OR u.held_micros <> t.micros + t.voided_micros OR u.micros - u.overrun_micros <> t.micros \
    OR u.picos - u.overrun_picos <> t.picos OR u.prompt_tokens <> t.prompt_tokens OR u.cached_tokens <> t.cached_tokens \
    OR u.completion_tokens <> t.completion_tokens OR u.millijoules <> t.millijoules \
    OR u.co2e_micrograms <> t.co2e_micrograms) ORDER BY u.source, u.sequence LIMIT $2";

pub(super) const STRAY: &str = "SELECT t.source, t.sequence, t.part FROM transfer t LEFT JOIN usage u \
    ON u.project_no = t.to_no AND u.source = t.source AND u.sequence = t.sequence \
    WHERE t.to_no = $1 AND t.from_no = 1 AND (u.source IS NULL OR t.part NOT IN (0, 7) OR (t.part = 7 AND NOT EXISTS \
    (SELECT 1 FROM energy_correction c WHERE c.source = t.source AND c.sequence = t.sequence))) \
    ORDER BY t.source, t.sequence, t.part LIMIT $2";

pub(super) const CURSORS: &str = "SELECT source, through FROM spool_cursor";

pub(super) const FIRST_GAP: &str = "SELECT u.sequence + 1 AS missing FROM usage u WHERE u.source = $1 AND NOT EXISTS \
    (SELECT 1 FROM usage v WHERE v.source = u.source AND v.sequence = u.sequence + 1) ORDER BY u.sequence LIMIT 1";

pub(super) const BALANCES: &str = "SELECT owner_no AS no, prompt_tokens, cached_tokens, completion_tokens, micros, \
    picos, millijoules, co2e_micrograms FROM balance";

pub(super) const DAILY: &str = "SELECT project_no, day, key_no, endpoint_no, principal_no, tenant_no, requests, \
    prompt_tokens, cached_tokens, completion_tokens, micros, picos, millijoules, co2e_micrograms FROM usage_daily \
    WHERE CAST($1 AS BIGINT) IS NULL OR project_no = $1";

pub(super) const SPENDING: &str = "SELECT subject_no, period_start, micros, picos, \
    millijoules, co2e_micrograms FROM spending";

/// From the few reversals to their records: `CROSS JOIN` keeps SQLite from walking all transfers instead.
pub(super) const REVERSED: &str = "SELECT usage.project_no, usage.started_at / 86400000000 AS day, usage.key_no, \
    usage.endpoint_no, usage.principal_no, usage.tenant_no, CAST(0 AS BIGINT) AS requests, transfer.prompt_tokens, \
    transfer.cached_tokens, transfer.completion_tokens, transfer.micros, transfer.picos, \
    transfer.millijoules + COALESCE((SELECT c.millijoules FROM energy_correction c WHERE c.source = usage.source \
    AND c.sequence = usage.sequence), 0) AS millijoules, transfer.co2e_micrograms + COALESCE((SELECT c.co2e_micrograms \
    FROM energy_correction c WHERE c.source = usage.source AND c.sequence = usage.sequence), 0) AS co2e_micrograms \
    FROM reversal CROSS JOIN usage CROSS JOIN transfer \
    WHERE usage.source = reversal.of_source AND usage.sequence = reversal.of_sequence \
    AND transfer.to_no = usage.project_no AND transfer.from_no = 1 \
    AND transfer.source = usage.source AND transfer.sequence = usage.sequence AND transfer.part = 0";

pub(super) const READINGS: &str = concat!(
    "SELECT COUNT(*) AS n",
    sum!(
        "millijoules",
        "co2e_micrograms",
        "usage_millijoules",
        "usage_co2e_micrograms",
        "overhead_millijoules",
        "overhead_co2e_micrograms",
        "idle_millijoules",
        "idle_co2e_micrograms",
        "apportionment_millijoules",
        "apportionment_co2e_micrograms"
    ),
    " FROM (SELECT millijoules, co2e_micrograms, usage_millijoules, usage_co2e_micrograms, overhead_millijoules, ",
    "overhead_co2e_micrograms, ",
    "CASE WHEN millijoules > usage_millijoules THEN millijoules - usage_millijoules ELSE 0 END AS idle_millijoules, ",
    "CASE WHEN co2e_micrograms > usage_co2e_micrograms THEN co2e_micrograms - usage_co2e_micrograms ELSE 0 END ",
    "AS idle_co2e_micrograms, ",
    "CASE WHEN millijoules < usage_millijoules THEN usage_millijoules - millijoules ELSE 0 END ",
    "AS apportionment_millijoules, ",
    "CASE WHEN co2e_micrograms < usage_co2e_micrograms THEN usage_co2e_micrograms - co2e_micrograms ELSE 0 END ",
    "AS apportionment_co2e_micrograms FROM reading) AS parts"
);

pub(super) const PENDING: &str =
    concat!("SELECT COUNT(*) AS n", sum!("millijoules", "co2e_micrograms"), " FROM energy_pending");
