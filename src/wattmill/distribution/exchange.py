"""One request from its bytes to its last byte: who asks, what, where to, and on to the next place if need be.

No task per request: an exchange is a small state machine that the client's and the engine's connections call.
`guarded` is the one boundary where an unexpected exception becomes an answer.
"""

from __future__ import annotations

from wattmill.distribution.doors.retelling import retold
from wattmill.distribution.gate import Gate, concerned
from wattmill.distribution.trying_again import TryingAgain
from wattmill.units import US_PER_S
from wattmill.vocab.fact import Replayed
from wattmill.vocab.refusal import Refusal


class Exchange(TryingAgain):
    """Implements `server.Client`: the steps in their order, and the client's side of them."""

    __slots__ = ()

    def begin(self) -> None:
        try:
            refusal = self._understand()
            if refusal is not None:
                self.refuse(refusal)
            elif self.door is None or not self._kept_waiting():
                self._pass_gates()
        except Exception as error:  # noqa: BLE001 - `guarded`, without its calls: every request comes by here
            self.crashed(error)

    # ---- gates

    def _pass_gates(self) -> None:
        entered = self._gate
        gates = self.gates[entered:] if entered else self._choose_gates()
        for gate in gates:
            self._gate = entered = entered + 1
            told = gate.enter(self)
            if told is None:
                continue
            if isinstance(told, Refusal):
                self.refuse(told)
            return
        if self.door is not None and self.door.pending:
            self.refuse(_nothing_stored())
            return
        route = self._decide()
        if isinstance(route, Refusal):
            self.refuse(route)
        else:
            self.route = self._new_route = route
            self._try_next()

    def _choose_gates(self) -> tuple[Gate, ...]:
        """Return the gates that this request has to pass; of a known head it is remembered."""
        known, caller, all_gates = self.http.known, self.caller, self.services.gates
        assert caller is not None
        if known is None:
            self.gates = all_gates
            return all_gates
        kept = known.gates
        if kept is None or kept[0] is not all_gates or kept[1] is not caller:
            kept = known.gates = all_gates, caller, concerned(all_gates, self.http.headers, caller)
        self.gates = kept[2]
        return kept[2]

    def go_on(self, refusal: Refusal | None = None) -> None:
        """A gate that kept this request waiting lets it pass, or refuses it."""
        if not self.over:
            self.guarded(self._went_on, refusal)

    def _went_on(self, refusal: Refusal | None) -> None:
        refusal = refusal or self.let_in_still()
        if refusal is None:
            self._pass_gates()
        else:
            self.refuse(refusal)

    def answer_with(
        self, head: bytes, body: bytes, *, outer: bool = False, note: Replayed | None = None
    ) -> None:
        """A gate answers by itself: no engine is asked. `head`: status line and headers with line ends.

        `body` is a chat's (or that of the endpoint); the door tells it in its own words, unless it was
        recorded by an `outer` tap. `note` is written down before the client hears anything, and only if it
        does."""
        if not self.over:
            refusal = self.let_in_still()
            if refusal is not None:
                self.refuse(refusal)
                return
            if self.door is not None and not outer:
                now_s = self.services.clock.wall_us() // US_PER_S
                body = retold(self.door, body, stream=self.draft.stream, now_s=now_s)
            if note is not None:
                self.services.journal.append_note(note)
            self.finished("", "2xx")
            self.conn.answer(head, body)

    # ---- server.Client

    def client_gone(self) -> None:
        self.guarded(self._client_gone)

    def _client_gone(self) -> None:
        if self.over:
            return
        attempt = self.attempt
        pool = ""
        if attempt is not None:
            pool = attempt.backend.pool
            self.gateway.metrics.count("wattmill_aborts_total", pool)
            attempt.client_gone()
        self.finished(pool, "gone")

    def client_slow(self) -> None:
        self.slow = True
        if self.attempt is not None and self.attempt.handle is not None:
            self.attempt.was_slow = True
            self.attempt.handle.pause()

    def client_ready(self) -> None:
        self.slow = False
        if self.attempt is not None and self.attempt.handle is not None:
            self.attempt.handle.resume()

    def timed_out(self) -> None:
        self.guarded(self._timed_out)

    def _timed_out(self) -> None:
        if self.over:
            return
        if self.gateway.draining:
            refusal = Refusal(code="draining", message="this gateway shut down before the answer ended")
        else:
            limit_s = self.services.limits.total_s
            refusal = Refusal(
                code="upstream_timeout", message=f"no end within {limit_s:g} s (limits.total_s)"
            )
        if self.attempt is not None:
            self.attempt.stop(refusal)
        else:
            self.refuse(refusal)


def _nothing_stored() -> Refusal:
    return Refusal(
        code="field_refused",
        message="'previous_response_id' needs stored responses, and none are kept here; send the items",
        param="previous_response_id",
    )
