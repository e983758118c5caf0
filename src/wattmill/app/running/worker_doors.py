"""What a worker has for its doors: who keeps and finds responses, and the paths beside the doors."""

from __future__ import annotations

from collections.abc import Callable

from wattmill.app.declared.settings import Settings
from wattmill.app.doors.side import side_doors
from wattmill.app.doors.stored import StoredResponses
from wattmill.app.gates.stored_responses import StoredResponsesGate
from wattmill.app.kept.shelf import Shelf
from wattmill.distribution.gateway import Gateway
from wattmill.distribution.side_door import SideDoor


class WorkerDoors:
    """Made at each reload: responses are stored by what is declared then, in the worker's kept store."""

    def __init__(
        self, settings: Settings, shelf: Shelf, gateway: Gateway, wall_us: Callable[[], int]
    ) -> None:
        stored = StoredResponses(shelf, settings.responses, wall_us=wall_us)
        self.gate = StoredResponsesGate(stored)
        self.side_doors: dict[bytes, SideDoor] = side_doors(gateway, stored)
