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
