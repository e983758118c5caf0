"""The tables of shared leases on PostgreSQL: those of `control_schema`, as far as leases need them."""

from __future__ import annotations

FORMAT = 1
LOCK = 0x776D6C73  # "wmls": the advisory lock under which leases are written

TABLES = """
CREATE TABLE node (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    parent bigint,  -- always NULL: a name here is the full one
    kind text NOT NULL,
    name text NOT NULL UNIQUE,
    cap_nusd bigint CHECK (cap_nusd >= 0)
);
CREATE TABLE run (node bigint PRIMARY KEY, state text NOT NULL);  -- runs are kept on their own machine
CREATE TABLE budget_limit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    node bigint NOT NULL REFERENCES node(id),
    unit text NOT NULL, period text NOT NULL, zone text NOT NULL,
    amount bigint NOT NULL CHECK (amount >= 0),
    latest bigint NOT NULL,
    created_us bigint NOT NULL, lifted_us bigint
);
CREATE UNIQUE INDEX one_limit ON budget_limit (node, unit, period) WHERE lifted_us IS NULL;
CREATE TABLE lease (
    epoch text NOT NULL, gauge bigint NOT NULL,
    granted bigint NOT NULL, used bigint NOT NULL, idle bigint NOT NULL, told bigint NOT NULL,
    PRIMARY KEY (epoch, gauge), CHECK (used >= 0 AND granted >= used)
);
CREATE INDEX lease_gauge ON lease (gauge);
CREATE TABLE spent (gauge bigint PRIMARY KEY, used bigint NOT NULL);
CREATE TABLE recall (
    epoch text NOT NULL, gauge bigint NOT NULL, ticket bigint NOT NULL, PRIMARY KEY (epoch, gauge)
);
CREATE TABLE ticket (one integer PRIMARY KEY CHECK (one = 1), number bigint NOT NULL);
INSERT INTO ticket VALUES (1, 1);
CREATE TABLE term (
    epoch text PRIMARY KEY, seen_us bigint NOT NULL, term_us bigint NOT NULL, place text NOT NULL
);
CREATE TABLE write_off (
    epoch text NOT NULL, gauge bigint NOT NULL, counted bigint NOT NULL, PRIMARY KEY (epoch, gauge)
);
CREATE TABLE closed_epoch (epoch text PRIMARY KEY, at_us bigint NOT NULL);
CREATE TABLE adjustment (id text PRIMARY KEY, at_us bigint NOT NULL);
"""
