"""Links between pages lead somewhere, and figures that are shown are the figures that were measured."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(#[^)\s]+)?\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors that the headings of `page` get, in the usual manner of hosts of Markdown."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for path, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            broken.append(path)
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            broken.append(path + anchor)
    assert broken == []


def test_every_page_and_picture_is_reached_from_the_readme_by_links() -> None:
    reached, ahead = set[Path](), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        reached.add(page)
        if page.suffix != ".md":
            continue
        targets = (
            (page.parent / path).resolve() for path, _ in LINK.findall(page.read_text(encoding="utf-8"))
        )
        ahead += [target for target in set(targets) if target.is_file() and target not in reached]
    there = {*ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/images/*")}
    assert sorted(path.relative_to(ROOT).as_posix() for path in there - reached) == []


def test_readme_shows_the_figures_of_the_newest_results() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/readme_figures.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
