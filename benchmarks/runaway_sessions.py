"""Sessions for the runaway detector: benign ones of many kinds, with text, and runaways; all from a seed.

Does not import wattmill. A session is the calls of one run (or, where it says so, of one key): when each
began and ended, the JSON of its messages, its size in tokens, whether it failed. Sizes are declared, not
counted: a context of a million tokens need not be built to be timed.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TRACE = Path(__file__).parent / "data" / "agentic_code_synthetic_60s_seed42.jsonl.gz"
TOK_PER_S = 100.0  # of a quick engine: the faster it answers, the closer calls follow each other

Message = dict[str, Any]


def seeded_rng(kind: str, seed: int, n: int) -> random.Random:
    return random.Random(f"{kind}/{seed}/{n}")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    start_s: float
    end_s: float
    messages: bytes
    prompt_tok: int
    failed: bool = False
    step: int = 0  # of a runaway: from 1 on; 0: before it began


# --- text -------------------------------------------------------------------------------------------------

_SYLLABLES = ["an", "be", "co", "di", "el", "fo", "ga", "hi", "in", "jo", "ka", "lu", "me", "no", "or", "pa"]
_SYLLABLES += ["qui", "ra", "se", "ti", "un", "va", "we", "xi", "yo", "za", "str", "ple"]


def _vocabulary() -> list[str]:
    rng = random.Random(7)
    return ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(4_000)]


_WORDS = _vocabulary()
_OFTEN = list(itertools.accumulate(1 / (n + 2) for n in range(len(_WORDS))))


class Writer:
    """Words with the frequencies of a language (Zipf), and what machines write."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def words(self, count: int) -> str:
        return " ".join(self.rng.choices(_WORDS, cum_weights=_OFTEN, k=max(1, count)))

    def text(self, tok: float) -> str:
        return self.words(round(tok * 0.75))

    def id(self) -> str:
        return "call_" + "".join(
            self.rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=24)
        )

    def path(self) -> str:
        depth = self.rng.randint(1, 4)
        return "/".join(self.rng.choices(_WORDS[50:1_500], k=depth)) + self.rng.choice((".py", ".ts", ".md"))

    def tool_call(self, name: str, **arguments: Any) -> Message:
        call = {
            "id": self.id(),
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments)},
        }
        return {"role": "assistant", "content": None, "tool_calls": [call]}

    @staticmethod
    def tool_result(call: Message, content: str) -> Message:
        return {"role": "tool", "tool_call_id": call["tool_calls"][0]["id"], "content": content}


class Session:
    """Calls on a clock: `ask` sends the conversation and waits for the answer."""

    def __init__(self, rng: random.Random, *, context_tok: int = 0) -> None:
        self.rng = rng
        self.write = Writer(rng)
        self.now_s = rng.uniform(0, 1e6)
        self.messages: list[Message] = []
        self.calls: list[Call] = []
        self.context_tok = context_tok  # beyond the text that is here

    def say(self, role: str, content: str, tok: float | None = None) -> None:
        self.messages.append({"role": role, "content": content})
        self.context_tok += round(len(content) / 4 if tok is None else tok)

    def add(self, *messages: Message, tok: float = 0) -> None:
        self.messages.extend(messages)
        self.context_tok += round(tok)

    def ask(self, output_tok: float, *, wait_s: float = 0.0, failed: bool = False, step: int = 0) -> None:
        self.now_s += wait_s
        took_s = self.rng.uniform(0.01, 0.08) if failed else 0.2 + output_tok / TOK_PER_S
        self.put(self.now_s, took_s, failed=failed, step=step)
        self.now_s += took_s

    def put(self, at_s: float, took_s: float, *, failed: bool = False, step: int = 0) -> None:
        # Only the end of a conversation is read; what is far from it need not be kept.
        text = json.dumps(self.messages[:2] + self.messages[-6:] if len(self.messages) > 8 else self.messages)
        self.calls.append(Call(at_s, at_s + took_s, text.encode(), self.context_tok, failed, step))


def _between(rng: random.Random, low: float, high: float) -> float:
    """Log-uniform."""
    return float(low * (high / low) ** rng.random())


# --- benign -----------------------------------------------------------------------------------------------


def chat(rng: random.Random) -> list[Call]:
    """A person and an assistant; now and then a quick `ok`, `continue`, `thanks`."""
    s = Session(rng)
    s.say("system", s.write.text(rng.randint(10, 600)))
    for _ in range(rng.randint(2, 40)):
        quick = rng.random() < 0.2
        says = (
            rng.choice(("ok", "continue", "thanks", "yes please", "go on"))
            if quick
            else s.write.text(_between(rng, 5, 400))
        )
        s.say("user", says)
        out = _between(rng, 10, 900)
        s.ask(out, wait_s=_between(rng, 1.0, 6) if quick else _between(rng, 4, 240))
        s.say("assistant", s.write.text(out))
    return s.calls


def polling(rng: random.Random, *, every_s: tuple[float, float] = (5, 120)) -> list[Call]:
    """An agent that asks a tool for the state of a job, waits, and asks again."""
    s = Session(rng)
    s.say("system", s.write.text(rng.randint(50, 800)))
    s.say("user", s.write.text(rng.randint(20, 200)))
    wait_s, job, done = _between(rng, *every_s), rng.randint(1_000, 9_999_999), 0.0
    for _ in range(rng.randint(3, 60)):
        call = s.write.tool_call("job_status", job=job)
        done = min(100.0, done + rng.uniform(0, 8))
        state = json.dumps({"job": job, "state": "running", "percent": round(done, 1), "at": round(s.now_s)})
        s.add(call, s.write.tool_result(call, state), tok=60)
        s.ask(25, wait_s=wait_s * rng.uniform(0.9, 1.1))
    return s.calls


def batch(rng: random.Random) -> list[Call]:
    """One long prompt, many items: one after the other or side by side; some items come twice."""
    s = Session(rng)
    rules = s.write.text(_between(rng, 300, 6_000))
    examples: list[Message] = []
    for _ in range(rng.choice((0, 0, 3, 8))):
        examples += [
            {"role": "user", "content": s.write.text(30)},
            {"role": "assistant", "content": s.write.words(1)},
        ]
    shape = rng.choice(("system", "before", "after"))
    only_numbers = rng.random() < 0.1  # "is 7919 prime?": items that differ in digits alone
    items = [
        f"number {rng.randint(1, 10**9)}" if only_numbers else s.write.text(_between(rng, 4, 120))
        for _ in range(rng.randint(20, 120))
    ]
    items += rng.sample(items, len(items) // 50)
    if not only_numbers:
        rng.shuffle(items)
    side_by_side = rng.choice((1, 1, 4, 16, 32))
    free_s = [s.now_s] * side_by_side
    for item in items:
        system = rules if shape == "system" else "You label texts."
        says = {"system": item, "before": f"{rules}\n\n{item}", "after": f"{item}\n\n{rules}"}[shape]
        s.messages = [{"role": "system", "content": system}, *examples, {"role": "user", "content": says}]
        s.context_tok = (len(rules) + len(item)) // 4
        hand = min(range(side_by_side), key=free_s.__getitem__)
        took_s = rng.uniform(0.2, 1.5)
        s.put(free_s[hand], took_s)
        free_s[hand] += took_s + _between(rng, 0.005, 0.3)
    return s.calls


def code_agent(rng: random.Random) -> list[Call]:
    """Reads, edits, runs tests; repeats commands, gets `ok` often; its context grows to 200 k tokens."""
    s = Session(rng, context_tok=rng.randint(3_000, 45_000))
    s.say("system", s.write.text(800))
    s.say("user", s.write.text(_between(rng, 10, 500)))
    file, command = s.write.path(), s.write.path()
    for _ in range(rng.randint(8, 150)):
        out = _between(rng, 60, 1_500)
        s.ask(out, wait_s=_between(rng, 0.02, 20))
        kind = rng.choices(("read", "edit", "test", "grep", "list", "think"), (30, 25, 20, 12, 8, 5))[0]
        if rng.random() < 0.3:
            file = s.write.path()
        if kind == "read":
            tok = _between(rng, 100, 12_000)
            call, result = s.write.tool_call("read_file", path=file), s.write.text(min(tok, 1_200))
        elif kind == "edit":
            tok = 150.0
            call, result = (
                s.write.tool_call("edit_file", path=file, old=s.write.text(40), new=s.write.text(60)),
                rng.choice(("ok", f"The file {file} has been updated.")),
            )
        elif kind == "test":
            tok = _between(rng, 60, 4_000)
            call = s.write.tool_call("run", command=f"pytest -q tests/{command}")
            passed, broke = rng.randint(3, 90), rng.randint(0, 3)
            result = (
                s.write.text(min(tok, 900)) if broke else f"{passed} passed in {rng.uniform(0.2, 9):.2f}s"
            )
        elif kind == "grep":
            tok = _between(rng, 30, 2_500)
            call, result = s.write.tool_call("grep", pattern=s.write.words(1)), s.write.text(min(tok, 900))
        elif kind == "list":
            tok = 200.0
            call, result = s.write.tool_call("list_files", path=file.rpartition("/")[0]), s.write.text(60)
        else:
            tok = out
            s.say("assistant", s.write.text(out), tok=out)
            s.say("user", rng.choice(("continue", "go on", "yes")), tok=2)
            s.now_s += _between(rng, 2, 60)
            continue
        s.add(call, s.write.tool_result(call, result), tok=tok + out)
        if s.context_tok > 200_000:
            s.context_tok = 30_000  # it sums up and goes on
    return s.calls


def retries(rng: random.Random) -> list[Call]:
    """Calls that get a 429 now and then, from clients that back off as the usual libraries do."""
    s = Session(rng)
    s.say("system", s.write.text(200))
    style = rng.choice(("openai", "tenacity", "fixed", "told"))
    most = rng.choice((2, 2, 3, 5, 6))
    told_s = _between(rng, 1, 20)
    for _ in range(rng.randint(3, 30)):
        s.say("user", s.write.text(_between(rng, 5, 300)))
        wait_s = _between(rng, 0.05, 20)
        for n in range(most if rng.random() < 0.4 else 0):
            s.ask(0, wait_s=wait_s, failed=True)
            if style == "openai":
                wait_s = min(8.0, 0.5 * 2**n) * rng.uniform(0.75, 1)
            elif style == "tenacity":
                wait_s = rng.uniform(0, min(60.0, 2.0**n))
            elif style == "fixed":
                wait_s = 2.0
            else:
                wait_s = told_s
            if rng.random() < 0.3:
                break
        out = _between(rng, 10, 500)
        s.ask(out, wait_s=wait_s)
        s.say("assistant", s.write.text(out))
    return s.calls


def sampling(rng: random.Random) -> list[Call]:
    """The same question many times side by side, to vote on the answer."""
    s = Session(rng)
    for _ in range(rng.randint(1, 12)):
        s.messages = [
            {"role": "system", "content": "Think, then answer."},
            {"role": "user", "content": s.write.text(_between(rng, 20, 600))},
        ]
        s.context_tok = 300
        longest_s = 0.0
        for _ in range(rng.randint(3, 40)):
            took_s = _between(rng, 0.5, 20)
            s.put(s.now_s + rng.uniform(0, 0.3), took_s)
            longest_s = max(longest_s, took_s)
        s.now_s += longest_s + _between(rng, 0.1, 30)
    return s.calls


def shared_key(rng: random.Random) -> list[Call]:
    """Many people behind one key without runs and with one system prompt: all in one trail."""
    prompt = Writer(rng).text(700)
    merged: list[Call] = []
    for _ in range(rng.randint(3, 30)):
        s = Session(rng)
        s.now_s = rng.uniform(0, 600)
        s.say("system", prompt)
        for _ in range(rng.randint(1, 15)):
            s.say(
                "user",
                rng.choice(("hi", "hello", "ok", "thanks"))
                if rng.random() < 0.25
                else s.write.text(_between(rng, 4, 200)),
            )
            out = _between(rng, 10, 400)
            s.ask(out, wait_s=_between(rng, 2, 120))
            s.say("assistant", s.write.text(out))
        merged += s.calls
    return sorted(merged, key=lambda call: call.start_s)


BENIGN: dict[str, Callable[[random.Random], list[Call]]] = {
    f.__name__: f for f in (chat, polling, batch, code_agent, retries, sampling, shared_key)
}


def impatient_polling(rng: random.Random) -> list[Call]:
    """Polls with 0.2 to 2.8 s between: by the rule a runaway. Counted apart, so that the price is known."""
    return polling(rng, every_s=(0.2, 2.5))


def trace_sessions(path: Path = TRACE) -> Iterator[tuple[str, list[Call]]]:
    """The sessions of the agent trace. It has sizes, delays and block ids, and no text: each block becomes
    words drawn from its id, so that what was sent again is the same text again."""
    sessions: dict[str, list[dict[str, Any]]] = {}
    with gzip.open(path, "rt") as file:
        for line in file:
            row = json.loads(line)
            sessions.setdefault(row["session_id"], []).append(row)
    for name, rows in sessions.items():
        s = Session(random.Random(1))
        s.now_s = rows[0]["timestamp"] / 1e3
        for row in rows:
            tok = row["input_length"]
            if row.get("is_restart"):
                s.messages, s.context_tok = [], 0
            shown = row["hash_ids"][-3:]
            words = " ".join(Writer(random.Random(id)).words(60) for id in shown)
            s.say("user", words, tok=tok)
            s.ask(row["output_length"], wait_s=row.get("delay", 0.0) / 1e3)
            s.say("assistant", Writer(random.Random(shown[-1] + 1)).words(40), tok=row["output_length"])
        yield name, s.calls


# --- runaways ---------------------------------------------------------------------------------------------
#
# Built from a published incident (github.com/elie222/rakazo, issue 883, 2026): in one hour 1,042 calls with
# 517,935,887 prompt tokens (median 499,744, at most 1,048,318: the model's context); one run did 569 rounds
# in 84 minutes; nearly all of its tool calls were `read_file` and `list_files`, one in six with an error: it
# looked for a file that was not there, and never gave up.


def _looks(s: Session, path: str, tok: float = 1_840) -> None:
    error = s.rng.random() < 76 / 467
    call = s.write.tool_call(s.rng.choice(("read_file", "list_files")), path=path)
    found = f"ENOENT: no such file or directory, open '{path}'" if error else s.write.text(min(tok, 300))
    s.add(call, s.write.tool_result(call, found), tok=tok)


def _before(s: Session, calls: int = 3) -> None:
    """Some steps of honest work first."""
    s.say("system", s.write.text(400))
    s.say("user", s.write.text(60))
    for _ in range(calls):
        s.ask(200, wait_s=_between(s.rng, 0.1, 3))
        _looks(s, s.write.path())


def incident_full_contexts(rng: random.Random) -> list[Call]:
    """The incident at its median: half a million tokens a call, 1,042 calls an hour, never the same path."""
    s = Session(rng, context_tok=round(rng.gauss(500_000, 60_000)))
    s.say("system", s.write.text(400))
    for step in range(1, 21):
        s.ask(60, wait_s=max(0.01, rng.gauss(3_600 / 1_042, 0.5) - 0.8), step=step)
        _looks(s, s.write.path())
    return s.calls


def incident_search_loop(rng: random.Random) -> list[Call]:
    """The incident's search: a few places looked at again and again. Step 1 is the first repetition."""
    s = Session(rng, context_tok=rng.randint(2_000, 60_000))
    _before(s)
    places = [(s.write.path(), s.write.text(rng.randint(10, 300))) for _ in range(rng.randint(1, 8))]
    for n in range(len(places) + 20):
        path, listing = places[n % len(places)]
        call = s.write.tool_call("list_files", path=path)
        stamp = f" (as of 2026-11-21T10:{n // 60:02d}:{n % 60:02d}.{rng.randint(0, 999):03d}Z)"
        s.add(call, s.write.tool_result(call, listing + stamp), tok=1_840)
        s.ask(60, wait_s=_between(rng, 0.01, 2.5), step=max(0, n - len(places) + 1))
    return s.calls


def incident_whole_run(rng: random.Random) -> list[Call]:
    """The incident's longest run from its first round: 569 rounds in 84 minutes, 5 k to 1,048 k tokens, never
    the same path twice. Nothing but size and pace gives it away."""
    s = Session(rng, context_tok=5_000)
    s.say("system", s.write.text(400))
    for step in range(1, 570):
        s.ask(60, wait_s=max(0.01, rng.gauss(84 * 60 / 569, 1.0) - 0.8), step=step)
        _looks(s, s.write.path(), tok=1_836)
    return s.calls


def failing_tool(rng: random.Random) -> list[Call]:
    """The model calls the same broken tool; the error has a new time and id each time."""
    s = Session(rng)
    _before(s)
    name, path = s.write.words(1), s.write.path()
    for step in range(1, 21):
        call = s.write.tool_call(name, path=path)
        hexes = "".join(rng.choices("0123456789abcdef", k=16))
        s.add(
            call,
            s.write.tool_result(call, f"Error {hexes} at {rng.random():.6f}: {path} is not there"),
            tok=90,
        )
        s.ask(40, wait_s=_between(rng, 0.01, 2), step=step)
    return s.calls


def one_prompt(rng: random.Random, *, clock: bool = False) -> list[Call]:
    """A loop outside sends one prompt, without pause."""
    s = Session(rng)
    text = s.write.text(_between(rng, 20, 2_000))
    for step in range(1, 21):
        s.messages, s.context_tok = [], 0
        s.say("user", f"It is {round(s.now_s)}. {text}" if clock else text)
        s.ask(100, wait_s=_between(rng, 0.01, 2), step=step)
    return s.calls


def one_prompt_and_clock(rng: random.Random) -> list[Call]:
    """The same with the time in the prompt: from outside the same as a batch whose items are numbers."""
    return one_prompt(rng, clock=True)


def ping_pong(rng: random.Random) -> list[Call]:
    """Two agents send each other the same two requests; what they answer in between varies."""
    s = Session(rng)
    _before(s)
    asks = [s.write.text(40) for _ in range(2)]
    for n in range(22):
        s.say("assistant", s.write.text(60))
        s.say("user", asks[n % 2])
        s.ask(80, wait_s=_between(rng, 0.01, 2), step=max(0, n - 1))
    return s.calls


def doubling(rng: random.Random) -> list[Call]:
    """Each step sends the whole history as a tool's answer again. It starts with 10 k tokens or more."""
    s = Session(rng, context_tok=rng.randint(10_000, 80_000))
    s.say("system", s.write.text(100))
    s.ask(100)
    for step in range(1, 9):
        s.add({"role": "user", "content": s.write.text(400)}, tok=s.context_tok * rng.uniform(0.6, 1.2))
        s.ask(100, wait_s=_between(rng, 0.05, 8), step=step)
    return s.calls


def dumping(rng: random.Random) -> list[Call]:
    """Each step adds a whole dump of 30 k tokens or more."""
    s = Session(rng, context_tok=rng.randint(10_000, 100_000))
    s.say("system", s.write.text(100))
    s.ask(100)
    for step in range(1, 13):
        s.add({"role": "user", "content": s.write.text(400)}, tok=rng.uniform(30_000, 90_000))
        s.ask(100, wait_s=_between(rng, 0.05, 8), step=step)
    return s.calls


def retry_storm(rng: random.Random) -> list[Call]:
    """A call that fails is sent again at once, for ever. Step 1 is the first repetition."""
    s = Session(rng)
    _before(s)
    for n in range(20):
        s.ask(0, wait_s=_between(rng, 0.001, 0.4), failed=True, step=n)
    return s.calls


def thanks_for_ever(rng: random.Random) -> list[Call]:
    """Two agents that thank each other in ever new words: nothing repeats, nothing grows fast."""
    s = Session(rng)
    _before(s)
    for step in range(1, 41):
        s.say("assistant", s.write.text(40))
        s.say("user", s.write.text(30))
        s.ask(60, wait_s=_between(rng, 0.01, 2), step=step)
    return s.calls


RUNAWAYS: dict[str, Callable[[random.Random], list[Call]]] = {
    f.__name__: f
    for f in (
        incident_full_contexts,
        incident_search_loop,
        failing_tool,
        one_prompt,
        ping_pong,
        doubling,
        dumping,
        retry_storm,
    )
}
"""To be seen within five steps."""

APART: dict[str, Callable[[random.Random], list[Call]]] = {
    f.__name__: f for f in (incident_whole_run, one_prompt_and_clock, thanks_for_ever)
}
"""Those that no rule here can be expected to see in five steps: reported, so that the limits are known."""


def generations(rng: random.Random) -> list[tuple[int, int, float]]:
    """A fan-out storm: (sub-runs opened so far, levels, seconds) after each generation of 2 to 6 each."""
    each, opened, alive, now_s = rng.randint(2, 6), 0, 1, 0.0
    out = []
    for level in range(1, 8):
        alive *= each
        opened += alive
        now_s += _between(rng, 0.1, 5)
        out.append((opened, level, now_s))
        if opened > 5_000:
            break
    return out
