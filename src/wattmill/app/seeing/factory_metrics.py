"""Metrics of the factory as a whole, beside those that each worker counts."""

from __future__ import annotations

from wattmill.distribution.metrics import Metric

FACTORY_METRICS: tuple[Metric, ...] = (
    Metric(
        "wattmill_power_watts", "gauge", "Power by part, as modelled or measured.", ("part", "provenance")
    ),
    Metric("wattmill_tokens_per_second", "gauge", "Tokens of attempts that ended in the last 10 s."),
    Metric("wattmill_ledger_difference", "gauge", "Largest imbalance of any commodity; 0 in balanced books."),
    Metric("wattmill_ledger_lag_seconds", "gauge", "Age of the oldest record that is not booked."),
    Metric("wattmill_in_doubt", "gauge", "Attempts in doubt."),
    Metric("wattmill_cap_used_ratio", "gauge", "Use of its cap by organisation and team.", ("node",)),
    Metric("wattmill_process_up", "gauge", "1 if the process is up.", ("role",)),
    Metric("wattmill_process_restarts_total", "counter", "Restarts by the supervisor.", ("role",)),
)
"""What the admin app adds to the workers' own. Labels: places, roles and tenants, never a client's words."""
