"""Where a factory keeps its things: one folder, one name per thing."""

from __future__ import annotations

import dataclasses
from pathlib import Path


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """The data folder of one factory. Everything in it is 0700/0600; secrets of tenants are hashed."""

    root: Path

    @property
    def lock(self) -> Path:  # held (flock) by the supervisor; says who
        return self.root / "lock"

    @property
    def journal(self) -> Path:  # one folder per epoch
        return self.root / "journal"

    @property
    def ledger_db(self) -> Path:  # written by the ledger process only
        return self.root / "ledger.db"

    @property
    def control_db(self) -> Path:  # keys, caps, leases, prices, configuration
        return self.root / "control.db"

    @property
    def kept_db(self) -> Path:  # cached answers, stored responses, files, batches, idempotency claims
        return self.root / "kept.db"

    @property
    def lane_lock(self) -> Path:  # held (flock) by the worker that takes batches forward
        return self.run / "lane.lock"

    @property
    def run(self) -> Path:  # sockets and process facts of the running factory
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def engines_json(self) -> Path:  # where the embedded engines listen, with their random keys
        return self.run / "engines.json"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin.token"

    def worker_socket(self, worker: int) -> Path:
        return self.run / f"worker-{worker}.sock"

    def create(self) -> None:
        """Make the folders; existing ones stay as they are."""
        for folder in (self.root, self.journal, self.run, self.logs):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
