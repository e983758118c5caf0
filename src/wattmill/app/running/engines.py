"""The engines that a factory runs itself."""

from __future__ import annotations

from collections.abc import Mapping

from wattmill.app.declared.plan import places
from wattmill.app.declared.settings import Settings
from wattmill.models.engines.embedded import EmbeddedSpec


def embedded_specs(settings: Settings, env: Mapping[str, str]) -> dict[str, EmbeddedSpec]:
    """Return, by pool, the engines that wattmill itself runs on this machine (stand-ins among them)."""
    return {
        name: EmbeddedSpec(
            pool=name,
            weights=place.weights,
            alias=next(iter(place.models.values())),
            slots=place.slots,
            ctx=place.context_tok,
            threads=place.threads,
            embeddings="embeddings" in (place.declared.capabilities or ()),
        )
        for name, place in places(settings, env).items()
        if place.weights is not None
    }
