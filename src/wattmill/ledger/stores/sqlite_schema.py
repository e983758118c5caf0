"""The tables of ledger.db, format 1. One writer: the ledger process. Postings are inserted, never edited.

Sizes matter: a booked request may take 300 bytes in all. A posting's row id is its transaction times 64
plus its line, so that it needs no index; an attempt's id is the transaction that booked it; names are small
integers; instants are microseconds after the start of their epoch.
"""

from __future__ import annotations

FORMAT_VERSION = 1
LINE_BITS = 6

STATUSES = ("finished", "aborted", "failed", "cut", "in_doubt")
SOURCES = ("measured", "estimated", "unmetered", "none")
"""Stored by their index: append, never reorder."""

NO_GOOD_END = ("failed", "cut", "in_doubt")
"""Statuses that roll-ups count as errors: neither finished nor left by the client."""

MEASURES = (
    "requests",
    "attempts",
    "errors",
    "aborted",
    "tok_input",
    "tok_cached_input",
    "tok_cache_write",
    "tok_audio_input",
    "tok_output",
    "tok_reasoning",
    "tok_audio_output",
    "charge_nusd",
    "cost_nusd",
    "overrun_nusd",
    "energy_uj",
    "ttft_us",  # sum over `ttft_n` attempts
    "ttft_n",
    "duration_us",
)
"""Columns of the roll-ups, all sums."""

_MEASURES = ",\n  ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in MEASURES)

_ROLLUP = f"""
CREATE TABLE rollup_{{step}} (
  start_s INTEGER NOT NULL, key INTEGER NOT NULL, pool INTEGER NOT NULL, model INTEGER NOT NULL,
  {_MEASURES},
  PRIMARY KEY (start_s, key, pool, model)) WITHOUT ROWID;
"""

SCHEMA = (
    """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE name (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE account (
  id INTEGER PRIMARY KEY, commodity TEXT NOT NULL, name TEXT NOT NULL, balance INTEGER NOT NULL DEFAULT 0,
  UNIQUE (commodity, name));

CREATE TABLE posting (id INTEGER PRIMARY KEY, account INTEGER NOT NULL, amount INTEGER NOT NULL);
CREATE TRIGGER posting_stays BEFORE UPDATE ON posting
  BEGIN SELECT RAISE(ABORT, 'postings are never edited: correct by a new transaction'); END;
CREATE TRIGGER posting_remains BEFORE DELETE ON posting
  BEGIN SELECT RAISE(ABORT, 'postings are never deleted: correct by a new transaction'); END;
CREATE TABLE note (tx INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, kind INTEGER NOT NULL, text TEXT NOT NULL);

CREATE TABLE epoch (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, worker INTEGER NOT NULL,
  start_us INTEGER NOT NULL, segment INTEGER NOT NULL DEFAULT 0, offset INTEGER NOT NULL DEFAULT 0,
  records INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL DEFAULT 'live');
CREATE TABLE epoch_used (
  epoch INTEGER NOT NULL, node INTEGER NOT NULL,  -- node: a gauge, see vocab.budget; nusd: in its unit
  nusd INTEGER NOT NULL, PRIMARY KEY (epoch, node)) WITHOUT ROWID;
CREATE TABLE segment (
  epoch INTEGER NOT NULL, segment INTEGER NOT NULL, first_seq INTEGER, last_seq INTEGER, last_us INTEGER,
  PRIMARY KEY (epoch, segment)) WITHOUT ROWID;
CREATE TABLE adjustment (id TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;

CREATE TABLE shape (
  id INTEGER PRIMARY KEY, pool INTEGER NOT NULL, model INTEGER NOT NULL, endpoint INTEGER NOT NULL,
  stream INTEGER NOT NULL, privacy INTEGER NOT NULL, cost_price INTEGER NOT NULL,
  charge_price INTEGER NOT NULL,
  UNIQUE (pool, model, endpoint, stream, privacy, cost_price, charge_price));
CREATE TABLE attempt (
  id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, back INTEGER NOT NULL,
  number INTEGER NOT NULL, key INTEGER NOT NULL, shape INTEGER NOT NULL, status INTEGER NOT NULL,
  source INTEGER NOT NULL, ended_us INTEGER NOT NULL, duration_us INTEGER NOT NULL, lead_us INTEGER NOT NULL,
  ttft_us INTEGER, prefill_tok INTEGER NOT NULL, cached_tok INTEGER NOT NULL, output_tok INTEGER NOT NULL,
  charge_nusd INTEGER NOT NULL, cost_nusd INTEGER NOT NULL, overrun_nusd INTEGER NOT NULL, cause INTEGER);
CREATE UNIQUE INDEX attempt_once ON attempt (epoch, seq);
CREATE TABLE retry (
  epoch INTEGER NOT NULL, request INTEGER NOT NULL, seq INTEGER NOT NULL,
  PRIMARY KEY (epoch, request, seq)) WITHOUT ROWID;
CREATE TABLE correction (tx INTEGER PRIMARY KEY, attempt INTEGER NOT NULL);
CREATE INDEX correction_of ON correction (attempt);
CREATE TABLE energy (attempt INTEGER PRIMARY KEY, uj INTEGER NOT NULL);

CREATE TABLE open_intent (
  epoch INTEGER NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (epoch, seq)) WITHOUT ROWID;
CREATE TABLE doubt (
  attempt INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, pool TEXT NOT NULL,
  body BLOB NOT NULL, state TEXT NOT NULL, since_us INTEGER NOT NULL);
CREATE UNIQUE INDEX doubt_once ON doubt (epoch, seq);
CREATE INDEX doubt_open ON doubt (state) WHERE state = 'open';

CREATE TABLE refused (
  id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, at_us INTEGER NOT NULL,
  key INTEGER NOT NULL, code INTEGER NOT NULL,
  model INTEGER NOT NULL, endpoint INTEGER NOT NULL, message TEXT NOT NULL, UNIQUE (epoch, seq));
CREATE TABLE rollup_refused (
  start_s INTEGER NOT NULL, key INTEGER NOT NULL, code INTEGER NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (start_s, key, code)) WITHOUT ROWID;

CREATE TABLE held (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at_us INTEGER NOT NULL,
body BLOB NOT NULL);
CREATE TABLE meter_window (
  tx INTEGER PRIMARY KEY, meter INTEGER NOT NULL, start_us INTEGER NOT NULL, length_us INTEGER NOT NULL,
  total_uj INTEGER NOT NULL, idle_uj INTEGER NOT NULL, unattributed_uj INTEGER NOT NULL,
  provenance INTEGER NOT NULL, source INTEGER NOT NULL);
CREATE TABLE engine_count (
  pool TEXT NOT NULL, instance TEXT NOT NULL, first_us INTEGER NOT NULL, at_us INTEGER NOT NULL,
  prompt_tok INTEGER NOT NULL, output_tok INTEGER NOT NULL,
  base_prompt_tok INTEGER NOT NULL, base_output_tok INTEGER NOT NULL,
  booked_prompt_tok INTEGER NOT NULL, booked_output_tok INTEGER NOT NULL, PRIMARY KEY (pool,
  instance)) WITHOUT ROWID;
CREATE TABLE alarm (
  id INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, kind TEXT NOT NULL, epoch TEXT, seq INTEGER,
  text TEXT NOT NULL);
"""
    + _ROLLUP.format(step="minute")
    + _ROLLUP.format(step="hour")
)

KEPT_SCHEMA = """
CREATE TABLE IF NOT EXISTS epoch_kept (
  epoch INTEGER NOT NULL, key INTEGER NOT NULL, nusd INTEGER NOT NULL,
  PRIMARY KEY (epoch, key)) WITHOUT ROWID;
"""
"""Added to format 1: what counts against caps beyond the charges, because nobody saw what was produced. A
writer makes the table where it is missing, a reader does without."""

REFUSED_KEPT = 10_000
"""Recent refusals are rows of their own; older ones stay as counts, and in the journal while it is kept."""
