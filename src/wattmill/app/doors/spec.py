"""How stored responses are kept, as declared."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class ResponseLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Responses that a client wants stored (`store`, the protocol's default): they can be read, deleted, and
    continued with `previous_response_id`. With `store: false` nothing of a request is kept."""

    keep_s: Annotated[
        int, Meta(ge=0, le=31_536_000, description="How long a response is stored; 0: none is ever stored.")
    ] = 2_592_000
    scope: Annotated[
        Literal["key", "team"],
        Meta(description="Who finds a stored response: the key that made it, or all keys of its team."),
    ] = "key"
    chain: Annotated[
        int, Meta(ge=1, le=10_000, description="Most responses that one may follow, each the one before.")
    ] = 500
