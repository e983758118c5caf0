"""Two source trees side by side: what a change costs, on a machine that does not hold still.

Both trees run as whole factories, their gateways on one core, and are asked in turns by one load generator.
What is printed is the median of the ratios new/old of neighbouring slices; the host's speed cancels out.
nginx in front of the same engine takes a turn as well, where it is installed, as a yardstick of the host.

    git worktree add ../before HEAD~3
    python benchmarks/paired.py --old ../before --cells c64,c1 --pairs 8
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import procfs
from factory import ROOT, Factory, Server, declaration, free_port, running, script
from gateway import CELLS, MODEL, PROXY_CPU, REST_CPU, Cell, Target, nginx, pinned, take


def tree(stack: ExitStack, folder: Path, root: Path, name: str, mock_port: int, more: str) -> Target:
    port = free_port()
    toml = declaration(
        {"mock": f"http://127.0.0.1:{mock_port}/v1"}, model=MODEL, port=port, admin_port=free_port()
    )
    factory = Factory(folder / name, toml + more, port=port)
    factory.env = {"PYTHONPATH": str(root / "src")}
    stack.enter_context(running(factory))
    target = pinned(factory)
    target.name = name
    return target


def once(target: Target, cell: Cell, seconds: float) -> dict[str, float]:
    """Return one slice: CPU in microseconds a request (or a chunk), of it the kernel's, switches, times."""
    before = [procfs.switches(pid) for pid in target.pids]
    kernel = sum(procfs.kernel_s(pid) for pid in target.pids)
    took = take(target, cell, seconds)
    kernel = sum(procfs.kernel_s(pid) for pid in target.pids) - kernel
    after = [procfs.switches(pid) for pid in target.pids]
    per = took.load["chunks" if cell.stream else "requests"]
    out = {
        "cpu_us": took.cpu_s / per * 1e6,
        "kernel_us": kernel / per * 1e6,
        "slept": sum(a[0] - b[0] for a, b in zip(after, before, strict=True)) / per,
        "ousted": sum(a[1] - b[1] for a, b in zip(after, before, strict=True)) / per,
        "p50_ms": took.load["p50_ms"],
    }
    if cell.stream:
        out["ttft_ms"] = took.load["ttft_p50_ms"]
    return out


def compare(targets: list[Target], cell: Cell, pairs: int, seconds: float) -> None:
    taken: dict[str, list[dict[str, float]]] = {target.name: [] for target in targets}
    for turn in range(pairs):
        for i in range(len(targets)):
            target = targets[(turn + i) % len(targets)]
            with procfs.held_awake() if cell.awake else contextlib.nullcontext():
                taken[target.name].append(once(target, cell, seconds))
    for name, slices in taken.items():
        figures = {key: statistics.median(one[key] for one in slices) for key in slices[0]}
        print(f"  {cell.name} {name:8}" + "".join(f"  {key} {value:.2f}" for key, value in figures.items()))
    if "old" in taken and "new" in taken:
        for key in ("cpu_us", "p50_ms", "ttft_ms"):
            if key in taken["new"][0]:
                ratios = [n[key] / o[key] for n, o in zip(taken["new"], taken["old"], strict=True)]
                print(
                    f"  {cell.name} new/old {key}: x {statistics.median(ratios):.3f} "
                    f"({min(ratios):.3f} to {max(ratios):.3f})",
                    flush=True,
                )


def without_sockets(roots: dict[str, Path], part: str, pairs: int) -> None:
    """Compare by each tree's own `parts.py`: no sockets, so microseconds can be told apart."""
    taken: dict[str, list[float]] = {name: [] for name in roots}
    for turn in range(pairs):
        for name, root in list(roots.items())[:: 1 if turn % 2 else -1]:
            argv = ["taskset", "-c", str(PROXY_CPU), sys.executable, str(root / "benchmarks" / "parts.py")]
            env = {**os.environ, "PYTHONPATH": str(root / "src")}
            ran = subprocess.run([*argv, "--part", part], env=env, capture_output=True, text=True, check=True)
            taken[name].append(float(ran.stdout))
    ratios = [n / o for n, o in zip(taken["new"], taken.get("old", taken["new"]), strict=True)]
    figures = "  ".join(f"{name} {min(values):.1f} µs" for name, values in taken.items())
    print(f"{part}: {figures}  x {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, help="root of the tree to compare with; left out: only this one")
    parser.add_argument("--new", type=Path, default=ROOT)
    parser.add_argument("--cells", default="c64", help="comma-separated: " + ",".join(c.name for c in CELLS))
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one slice")
    parser.add_argument("--more", type=Path, help="a file whose text is appended to both declarations")
    parser.add_argument("--part", help="compare without sockets, by this part of parts.py")
    args = parser.parse_args()
    if args.part:
        roots = {"old": args.old, "new": args.new} if args.old else {"new": args.new}
        without_sockets({name: root.resolve() for name, root in roots.items()}, args.part, args.pairs)
        return
    more = args.more.read_text() if args.more else ""
    os.sched_setaffinity(0, {REST_CPU})
    mock = Server(*script("mock_upstream.py"), "--tokens", "1000000", cpu=REST_CPU)
    mock.start()
    with tempfile.TemporaryDirectory(prefix="wattmill-paired-") as name, ExitStack() as stack:
        stack.callback(mock.kill)
        folder = Path(name)
        roots = {"old": args.old, "new": args.new} if args.old else {"new": args.new}
        targets = [tree(stack, folder, root.resolve(), name, mock.port, more) for name, root in roots.items()]
        rival = stack.enter_context(nginx(folder, mock.port))
        if rival is not None:
            targets.append(rival)
        cells = {cell.name: cell for cell in CELLS}
        for target in targets:
            take(target, cells["c64"], 1.0)  # warm
        print(f"proxies on core {PROXY_CPU}, the rest on core {REST_CPU}; medians of {args.pairs} slices")
        for cell_name in args.cells.split(","):
            compare(targets, cells[cell_name], args.pairs, args.seconds)


if __name__ == "__main__":
    main()
