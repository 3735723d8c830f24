"""docs/study/ is what docs/study.py writes."""

import runpy
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.slow
def test_the_study_is_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    for path, text in runpy.run_path(str(DOCS / "study.py"))["texts"]().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: run docs/study.py"


def test_the_page_shows_its_plots() -> None:
    page = (DOCS / "study" / "smol.md").read_text(encoding="utf-8")
    for plot in (DOCS / "study").glob("*.svg"):
        assert f"({plot.name})" in page
