"""The lane: takes everybody's batches forward, a few lines at a time, in the worker that holds its lock.

Each line is a request of its key like any other: it passes all gates, is reserved under all caps and goes
where its data may go. A finished line is written down before another takes its place, so whoever takes the
lane over after a death goes on behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from wattmill.app.batches.inside import Answered, BrokenOff, InsideKeys
from wattmill.app.batches.reading import read_lines
from wattmill.app.batches.shelf import BatchShelf, Kept
from wattmill.app.batches.spec import ENDED, NOTHING, OUTPUT, Batch, Counts, Done, FileMeta, Line
from wattmill.app.kept.spec import KeptUnavailable, NoRoom
from wattmill.units import US_PER_S
from wattmill.vocab.caller import PRIVACY_CLASSES

_log = logging.getLogger("wattmill.lane")
_LOOK_S = 0.5  # how often new batches, cancellations and the lock are looked for
_MOST_TRIES = 3  # of a line that a place broke; who is told to wait, waits until the batch expires
_LONGEST_WAIT_S = 30.0
_MOST_JOBS = 16  # whose lines are in memory at once
_WAIT = (429, 503)
_AGAIN = (409, 500, 502, 504)
_body = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

Ask = Callable[[str, dict[bytes, bytes], bytes], Awaitable[Answered]]


class Lane:
    """One per worker; the one that holds the lock works. `ask(path, headers, body)` asks the gateway."""

    def __init__(
        self,
        shelf: BatchShelf,
        ask: Ask,
        keys: InsideKeys,
        *,
        lock: Path,
        tier: Callable[[], str | None],
        count: Callable[[str], None] = lambda outcome: None,
        may_begin: Callable[[], bool] = lambda: True,
    ) -> None:
        self._shelf = shelf
        self._ask = ask
        self._keys = keys
        self._lock = lock
        self._tier = tier
        self._may_begin = may_begin  # False: lines at work go on, no further one begins
        self.count = count  # an outcome of a line: "good", "bad" or "again"
        self._fd: int | None = None
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._at_work = 0
        self._room = asyncio.Event()
        self.wake = asyncio.Event()
        self.stopping = False

    async def run(self) -> None:
        """Work until cancelled. What was at work then is asked again by whoever comes next."""
        try:
            while not self.stopping:
                if self._fd is None:
                    self._fd = _locked(self._lock)
                if self._fd is not None:
                    await self._look()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), _LOOK_S)
                self.wake.clear()
        finally:
            await self._end_jobs()

    async def drain(self, timeout_s: float) -> None:
        """Begin no further line; wait for those at work, but not longer than that. Then let the lock go."""
        self.stopping = True
        self.wake.set()
        if self._jobs:
            await asyncio.wait(set(self._jobs.values()), timeout=timeout_s)
        await self._end_jobs()

    async def _end_jobs(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        if self._fd is not None and not self._jobs:
            os.close(self._fd)
            self._fd = None

    async def _look(self) -> None:
        try:
            running = await self._shelf.running()
        except KeptUnavailable:
            return
        for node, id in running:
            if id not in self._jobs and len(self._jobs) < _MOST_JOBS:
                job = asyncio.get_running_loop().create_task(self._job(node, id))
                self._jobs[id] = job
                job.add_done_callback(functools.partial(self._gone, id))

    def _gone(self, id: str, job: asyncio.Task[None]) -> None:
        self._jobs.pop(id, None)

    async def _job(self, node: int, id: str) -> None:
        try:
            kept = await self._shelf.batch(node, id, privacy=PRIVACY_CLASSES[-1])
            if kept is not None and kept.batch.status not in ENDED:
                await _Job(self, self._shelf, node, kept).run()
        except KeptUnavailable:
            await asyncio.sleep(_LOOK_S)
        except NoRoom as error:
            _log.warning("%s: %s", id, error)
            await self._give_up(node, id, "no_room", str(error))
        except Exception:  # noqa: BLE001 - one batch must not stop the others; it is tried again
            _log.exception("%s: a defect in the lane", id)
            await asyncio.sleep(10 * _LOOK_S)

    async def _give_up(self, node: int, id: str, code: str, message: str) -> None:
        with contextlib.suppress(KeptUnavailable, NoRoom):
            kept = await self._shelf.batch(node, id, privacy=PRIVACY_CLASSES[-1])
            if kept is not None:
                await _Job(self, self._shelf, node, kept).fail(
                    [{"code": code, "message": message, "param": None, "line": None}]
                )

    # ---- for jobs

    async def slot(self, stops: Callable[[], bool]) -> None:
        """Wait until one more line may be at work, or the batch is not to go on."""
        while not stops() and (self._at_work >= self._shelf.settings().at_once or not self._may_begin()):
            self._room.clear()
            with contextlib.suppress(TimeoutError):  # nobody tells when lines may begin again
                await asyncio.wait_for(self._room.wait(), _LOOK_S)
        self._at_work += 1

    def free(self) -> None:
        self._at_work -= 1
        self._room.set()

    async def ask(self, batch: Batch, number: int, line: Line) -> Answered:
        headers = {
            b"authorization": self._keys.authorization(batch.key),
            b"x-request-id": f"{batch.id}/{number}".encode(),
            b"x-wattmill-privacy": batch.privacy.encode(),
            b"idempotency-key": f"{batch.id}/{number}".encode(),
        }
        if batch.residency is not None:
            headers[b"x-wattmill-residency"] = batch.residency.encode("latin-1")
        tier = self._tier()
        if tier is not None:
            headers[b"x-wattmill-tier"] = tier.encode()
        body = _body(line.body)
        body.pop("stream", None)
        body.pop("stream_options", None)
        return await self._ask(batch.endpoint, headers, _encode(body))

    def now_s(self) -> float:
        return self._shelf.wall_us() / US_PER_S


class _Job:
    """One batch, from wherever it stands to its end."""

    def __init__(self, lane: Lane, shelf: BatchShelf, node: int, kept: Kept) -> None:
        self._lane = lane
        self._shelf = shelf
        self._node = node
        self._kept = kept
        self._lines: list[Line] = []
        self._good = 0
        self._bad = 0
        self._failure: BaseException | None = None

    @property
    def _batch(self) -> Batch:
        return self._kept.batch

    async def run(self) -> None:
        batch = self._batch
        found = await self._shelf.file(self._node, batch.input_file_id, privacy=PRIVACY_CLASSES[-1])
        if found is None:
            gone = [_error("input_file_gone", f"file {batch.input_file_id!r} was deleted")]
            if batch.status == "validating":
                await self.fail(gone)
            else:  # what was answered until then was paid for
                await self._finish(gone)
            return
        content = found[0].body
        most = self._shelf.settings().most_lines
        self._lines, errors = await asyncio.to_thread(read_lines, content, endpoint=batch.endpoint, most=most)
        if batch.status == "validating":
            if errors:
                await self.fail(errors)
                return
            await self._update(
                status="in_progress",
                in_progress_at=int(self._lane.now_s()),
                counts=Counts(total=len(self._lines)),
            )
        if self._batch.status == "in_progress":
            await self._work()
            if self._lane.stopping:
                return
        await self._finish()

    async def fail(self, errors: list[dict[str, object]]) -> None:
        await self._update(status="failed", failed_at=int(self._lane.now_s()), errors=errors)
        await self._forget_lines()

    async def _update(self, **fields: object) -> None:
        """Change the stored batch. A cancellation that came in between is kept."""
        while True:
            changed = await self._shelf.change(self._kept, msgspec.structs.replace(self._batch, **fields))
            if changed is not None:
                self._kept = changed
                return
            now = await self._shelf.batch(self._node, self._batch.id, privacy=PRIVACY_CLASSES[-1])
            if now is None:
                raise KeptUnavailable(f"batch {self._batch.id} is gone")
            self._kept = now
            if now.batch.status == "cancelling" and fields.get("status") == "in_progress":
                return

    # ---- lines

    async def _work(self) -> None:
        finished = await self._shelf.numbers_done(self._node, self._batch)
        for number in sorted(finished):
            done = await self._shelf.done(self._node, self._batch, number)
            self._count(done)
        todo = [n for n in range(len(self._lines)) if n not in finished]
        running: set[asyncio.Task[None]] = set()
        watch = asyncio.get_running_loop().create_task(self._watch())
        try:
            for number in todo:
                await self._lane.slot(self._stops)
                if self._stops():
                    self._lane.free()
                    break
                task = asyncio.get_running_loop().create_task(self._line(number))
                running.add(task)
                task.add_done_callback(running.discard)
            while running:
                await asyncio.wait(set(running))
        finally:
            watch.cancel()
            for task in list(running):
                task.cancel()
            await asyncio.gather(watch, *running, return_exceptions=True)
        if self._failure is not None:
            raise self._failure

    def _stops(self) -> bool:
        return (
            self._failure is not None
            or self._lane.stopping
            or self._batch.status != "in_progress"
            or self._lane.now_s() >= self._batch.expires_at
        )

    async def _watch(self) -> None:
        """Look whether the batch was cancelled, and tell how far it is."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                now = await self._shelf.batch(self._node, self._batch.id, privacy=PRIVACY_CLASSES[-1])
                if now is None:
                    self._failure = KeptUnavailable(f"batch {self._batch.id} is gone")
                    return
                self._kept = now
                counts = Counts(len(self._lines), self._good, self._bad)
                if now.batch.status == "in_progress" and now.batch.counts != counts:
                    await self._update(counts=counts)
            except (KeptUnavailable, NoRoom) as error:
                self._failure = error
                return

    async def _line(self, number: int) -> None:
        """Ask until there is an answer that waiting does not change, and write it down. Holds a slot."""
        holds = True
        try:
            line, tries = self._lines[number], 0
            while True:
                tries += 1
                done, wait_s = await self._once(number, line, tries)
                if done is not None:
                    await self._shelf.add_done(self._node, self._batch, number, done)
                    self._count(done)
                    self._lane.count("good" if done.good else "bad")
                    return
                self._lane.count("again")
                self._lane.free()
                holds = False
                left_s = self._batch.expires_at - self._lane.now_s()
                if self._stops() or left_s <= 0:
                    return
                await asyncio.sleep(min(wait_s, left_s))
                await self._lane.slot(self._stops)
                holds = True
                if self._stops():
                    return
        except (KeptUnavailable, NoRoom) as error:
            self._failure = error
        finally:
            if holds:
                self._lane.free()

    async def _once(self, number: int, line: Line, tries: int) -> tuple[Done | None, float]:
        """Return a finished line, or None and how long to wait before it is asked again."""
        try:
            answered = await self._lane.ask(self._batch, number, line)
        except BrokenOff:
            if tries < _MOST_TRIES:
                return None, float(tries)
            error = {"code": "upstream_failed", "message": "the answer broke off in its middle"}
            return Done(custom_id=line.custom_id, status=502, request_id="", error=error), 0.0
        status, curable = answered.status, answered.headers.get("x-should-retry") != "false"
        if curable and (status in _WAIT or (status in _AGAIN and tries < _MOST_TRIES)):
            told = answered.headers.get("retry-after", "")
            wait_s = float(told) if told.isdigit() else float(tries)
            return None, min(max(wait_s, 0.2), _LONGEST_WAIT_S)
        return (
            Done(
                custom_id=line.custom_id,
                status=status,
                request_id=answered.request_id,
                body=msgspec.Raw(answered.body) if answered.body else NOTHING,
                privacy=answered.privacy or self._batch.privacy,
            ),
            0.0,
        )

    def _count(self, done: Done | None) -> None:
        if done is not None and done.good:
            self._good += 1
        else:
            self._bad += 1

    # ---- the end

    async def _finish(self, errors: list[dict[str, object]] | None = None) -> None:
        """Put the answers into files, then say that the batch has ended, then forget its lines. Each step
        can be taken again. `errors`: why the lines that are left can never be asked."""
        batch = self._batch
        if batch.status != "finalizing":
            fields = {} if errors is None else {"errors": errors}
            await self._update(status="finalizing", finalizing_at=int(self._lane.now_s()), **fields)
        good, bad, left, privacy = await self._collect()
        batch = self._batch
        if batch.cancelling_at is not None:
            end = "cancelled"
        elif left:
            end = "expired" if batch.errors is None else "failed"
        else:
            end = "completed"
        suffix = batch.id.removeprefix("batch_")
        output = await self._put(f"file-{suffix}out", f"{batch.id}_output.jsonl", good, privacy)
        failed = await self._put(f"file-{suffix}err", f"{batch.id}_error.jsonl", bad, privacy)
        await self._update(
            status=end,
            output_file_id=output,
            error_file_id=failed,
            errors=batch.errors if end == "failed" else None,
            counts=Counts(max(batch.counts.total, len(good) + len(bad)), len(good), len(bad)),
            **{f"{end}_at": int(self._lane.now_s())},
        )
        await self._forget_lines()

    async def _collect(self) -> tuple[list[bytes], list[bytes], int, str]:
        """Return the lines of both files, how many were never asked, and the most sensitive class in them.

        Where the input is gone, only the lines that were answered have names."""
        good: list[bytes] = []
        bad: list[bytes] = []
        batch = self._batch
        left, privacy = 0, batch.privacy
        code = "batch_cancelled" if batch.cancelling_at is not None else "batch_expired"
        answered = await self._shelf.numbers_done(self._node, batch)
        for number in range(len(self._lines)) if self._lines else sorted(answered):
            done = await self._shelf.done(self._node, batch, number) if number in answered else None
            if done is None:
                left += 1
                error = {"code": code, "message": "the batch ended before this line was asked"}
                line = self._lines[number]
                done = Done(custom_id=line.custom_id, status=0, request_id="", error=error)
            else:
                privacy = max(privacy, done.privacy, key=PRIVACY_CLASSES.index)
            (good if done.good else bad).append(_told(batch.id, number, done))
        if not self._lines:
            left = max(0, batch.counts.total - len(answered))
        return good, bad, left, privacy

    async def _put(self, id: str, filename: str, lines: list[bytes], privacy: str) -> str | None:
        if not lines:
            return None
        content = b"\n".join([*lines, b""])
        meta = FileMeta(filename=filename, purpose=OUTPUT, size=len(content), key=self._batch.key)
        await self._shelf.add_file(self._node, meta, content, privacy=privacy, keep_s=None, id=id)
        return id

    async def _forget_lines(self) -> None:
        for number in sorted(await self._shelf.numbers_done(self._node, self._batch)):
            await self._shelf.forget_line(self._node, self._batch, number)


def _told(batch_id: str, number: int, done: Done) -> bytes:
    """Return one line of an output or error file."""
    response = None
    if done.status and bytes(done.body) != b"null":
        response = {"status_code": done.status, "request_id": done.request_id, "body": done.body}
    return _encode(
        {
            "id": f"batch_req_{batch_id.removeprefix('batch_')}_{number}",
            "custom_id": done.custom_id,
            "response": response,
            "error": done.error,
        }
    )


def _error(code: str, message: str) -> dict[str, object]:
    return {"code": code, "message": message, "param": None, "line": None}


def _locked(path: Path) -> int | None:
    """Return a descriptor that holds the lock, None if another process does. The kernel drops it at death."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
