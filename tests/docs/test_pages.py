"""Python runs on the pages that say so, links lead somewhere, and every page is reached from the README."""

import re
from pathlib import Path

import pytest

from tests.places import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_RUN = "code on this page is run by a test"
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [page for page in PAGES if _RUN in page.read_text()], ids=lambda page: page.name)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": f"page_{page.stem}"}
    for code in _CODE.findall(page.read_text()):
        exec(compile(code, str(page), "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    dead = [link for link in _LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert dead == []


def test_the_readme_shows_the_two_commands_that_set_themselves_up():
    readme = (ROOT / "README.md").read_text()
    targets = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"\n    make {target}\n" in readme
        assert f"\n{target}: $(STAMP)\n" in targets


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md" and page.exists():
            reached.add(page)
            waiting.extend((page.parent / link).resolve() for link in _LINK.findall(page.read_text()))
    assert set(PAGES) <= reached
