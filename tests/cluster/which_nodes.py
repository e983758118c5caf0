"""Say on which nodes of the cluster eight slow pieces of work ran."""

from __future__ import annotations

import json
import time

from wattmill.twin.planning.spread import mapped


def where(number: int) -> tuple[int, str]:
    import ray

    time.sleep(0.5)
    return number, ray.get_runtime_context().get_node_id()


if __name__ == "__main__":
    print(json.dumps(list(mapped(where, range(8), on="ray"))))
