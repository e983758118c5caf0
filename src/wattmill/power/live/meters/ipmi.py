"""A server's management controller by IPMI's DCMI extension, through the program `ipmitool`."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

from wattmill.power.spec import MeterConfig
from wattmill.vocab.meter import MeterError, MeterSpec, Reading

_WATTS = re.compile(r"Instantaneous power reading\s*:\s*(\d+)\s*Watts", re.IGNORECASE)
_ACTIVE = re.compile(r"Power reading state is\s*:\s*(\w+)", re.IGNORECASE)


class Dcmi:
    """`at` is the program (default `ipmitool` of PATH); `query` are its arguments before `dcmi`, e.g.
    `-I lanplus -H bmc -U user -E` (the password comes from IPMI_PASSWORD, never from here)."""

    def __init__(self, config: MeterConfig) -> None:
        self._config = config
        self._argv = [config.at or "ipmitool", *config.query.split(), "dcmi", "power", "reading"]
        self.spec: MeterSpec = config.spec(f"DCMI by {' '.join(self._argv)}", resolution_uj=None)
        self.read(t_s=0.0)

    def read(self, *, t_s: float) -> Sequence[Reading]:
        try:
            done = subprocess.run(
                self._argv, capture_output=True, text=True, timeout=self._config.timeout_s, check=False
            )
        except FileNotFoundError:
            raise MeterError(
                f"meter {self._config.name!r}: {self._argv[0]} is not there (Debian: apt install ipmitool)"
            ) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise MeterError(f"meter {self._config.name!r}: {error}") from None
        if done.returncode:
            text = (done.stderr or done.stdout).strip().splitlines()
            way = "; it needs root and the kernel's module ipmi_devintf" if "/dev/ipmi" in done.stderr else ""
            raise MeterError(f"meter {self._config.name!r}: {text[-1] if text else 'no word'}{way}")
        return [Reading(meter=self._config.name, t_s=t_s, power_w=watts_of(done.stdout, self._config.name))]


def watts_of(said: str, meter: str) -> float:
    """Return the instantaneous watts of what `ipmitool dcmi power reading` prints."""
    state, watts = _ACTIVE.search(said), _WATTS.search(said)
    if state is not None and state.group(1).lower() != "activated":
        raise MeterError(f"meter {meter!r}: the controller's power reading is {state.group(1)}")
    if watts is None:
        raise MeterError(f"meter {meter!r}: no line 'Instantaneous power reading' in {said[:120]!r}")
    return float(watts.group(1))


def open_meter(config: MeterConfig) -> Dcmi:
    return Dcmi(config)
