"""An answer before it is shown: a guardrail sees its text, whole or with a window held back as it streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from wattmill.vocab.guard import Verdict

Ask = Callable[[str], Verdict | None]
"""Show a text; None: the guardrail failed, and what is declared for that is to let it pass."""

_PREFIX = b"data: "
MAX_HELD_CHARS = 4 * 1024 * 1024
_encoder = msgspec.json.Encoder()


class _Choice:
    """What was said in one choice: the guardrail has seen `text`, the client the first `shown` of it."""

    __slots__ = ("ended", "finish", "refused", "shown", "text")

    def __init__(self) -> None:
        self.text = ""
        self.shown = 0
        self.refused: str | None = None
        self.finish: Any = None
        self.ended = False


class OutputGuard:
    """A tap. Texts pass when the guardrail has seen `window_chars` beyond them, or at the end; reasoning,
    tool calls and the rest pass with the event they came in, unless their choice was refused."""

    __slots__ = ("_ask", "_choices", "_last", "_name", "_window")

    def __init__(self, name: str, ask: Ask, *, window_chars: int | None) -> None:
        self._name = name
        self._ask = ask
        self._window = window_chars
        self._choices: dict[int, _Choice] = {}
        self._last: dict[str, Any] | None = None

    def again(self) -> None:
        """Another place answers from the beginning: what was seen of the first was shown to nobody."""
        self._choices.clear()

    def whole(self, body: bytes) -> bytes:
        try:
            answer = msgspec.json.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            return body
        choices = answer.get("choices") if type(answer) is dict else None
        for choice in choices if type(choices) is list else ():
            message = choice.get("message")
            holder, field = (message, "content") if type(message) is dict else (choice, "text")
            text = holder.get(field)
            if type(text) is not str or not text:
                continue
            verdict = self._ask(text)
            if verdict is None:
                continue
            if verdict.refuse is not None:
                holder[field] = None if field == "content" else ""
                if type(message) is dict:
                    message["refusal"] = self._reason(verdict.refuse)
                    message.pop("tool_calls", None)
                choice["finish_reason"] = "content_filter"
            elif verdict.texts is not None:
                holder[field] = "".join(verdict.texts)
        return _encoder.encode(answer)

    def event(self, event: bytes) -> bytes:
        before, found, data = event.partition(_PREFIX)
        try:
            decoded = msgspec.json.decode(data) if found else None
        except msgspec.MsgspecError:
            return event
        choices = decoded.get("choices") if isinstance(decoded, dict) else None
        if not isinstance(decoded, dict) or type(choices) is not list or not choices:
            return event
        self._last = {k: v for k, v in decoded.items() if k not in ("choices", "usage")}
        out = [c for c in map(self._seen, choices) if c is not None]
        if not out:
            return b"" if not decoded.get("usage") else self._render([], decoded["usage"])
        return before + _PREFIX + _encoder.encode({**decoded, "choices": out}) + b"\n\n"

    def ended(self, complete: bool) -> bytes:
        """Show what is still held back, now that the guardrail sees it whole."""
        out = []
        for index, state in self._choices.items():
            if not state.ended:
                text, finish = self._close(state)
                out.append(
                    {"index": index, "delta": {"content": text} if text else {}, "finish_reason": finish}
                )
        return self._render(out, None) if out and self._last is not None else b""

    # ---- inside

    def _seen(self, choice: Any) -> dict[str, Any] | None:
        if type(choice) is not dict:
            return None
        state = self._choices.setdefault(choice.get("index", 0), _Choice())
        if state.ended:
            return None
        delta = choice.get("delta")
        holder, field = (delta, "content") if type(delta) is dict else (choice, "text")
        text = holder.get(field)
        if type(text) is str:
            state.text += text
            holder[field] = self._shown(state)
        finish = choice.get("finish_reason")
        if state.refused is not None or finish is not None or len(state.text) > MAX_HELD_CHARS:
            state.finish = finish
            text, choice["finish_reason"] = self._close(state)
            holder[field] = (holder.get(field) or "") + text
            if state.refused is not None:
                for name in [
                    n for n in holder if n not in ("role", "content", "text", "index", "finish_reason")
                ]:
                    if holder is delta:
                        del holder[name]
                if holder is delta:
                    holder["refusal"] = state.refused
        elif self._window is None and type(text) is str and not _says_more(holder, field):
            return None
        return choice

    def _shown(self, state: _Choice) -> str:
        """Ask about the text so far, and return what of it may be shown now."""
        if self._window is None:
            return ""
        self._judge(state)
        if state.refused is not None:
            return ""
        upto = max(state.shown, len(state.text) - self._window)
        text, state.shown = state.text[state.shown : upto], upto
        return text

    def _close(self, state: _Choice) -> tuple[str, Any]:
        """End a choice: return the rest of its text, and its finish reason."""
        state.ended = True
        if state.refused is None and state.text:
            if len(state.text) > MAX_HELD_CHARS:
                state.refused = f"guardrail {self._name!r}: the answer is too long to be looked at"
            else:
                self._judge(state)
        if state.refused is not None:
            return "", "content_filter"
        rest = state.text[state.shown :]
        state.text = ""
        return rest, state.finish

    def _judge(self, state: _Choice) -> None:
        """Ask about what is held back, with as much of what was shown before it as the window is long."""
        since = 0 if self._window is None else max(0, state.shown - self._window)
        verdict = self._ask(state.text[since:])
        if verdict is None:
            return
        if verdict.refuse is not None:
            state.refused = self._reason(verdict.refuse)
        elif verdict.texts is not None:
            changed = state.text[:since] + "".join(verdict.texts)
            if changed[: state.shown] == state.text[: state.shown]:  # what was shown cannot be taken back
                state.text = changed

    def _reason(self, text: str) -> str:
        return f"guardrail {self._name!r}: {text}"

    def _render(self, choices: list[dict[str, Any]], usage: Any) -> bytes:
        event = {**(self._last or {}), "choices": choices}
        if usage:
            event["usage"] = usage
        return _PREFIX + _encoder.encode(event) + b"\n\n"


def _says_more(holder: dict[str, Any], field: str) -> bool:
    """Return whether there is something to tell beside an empty text."""
    return any(value for key, value in holder.items() if key not in (field, "index", "logprobs"))
