"""The documentation is built from the sources, without a warning."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cmrkit.cli.main import VERBS
from cmrkit.recipe.library import load_all

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "-f",
        str(ROOT / "docs" / "mkdocs.yml"),
        "-d",
        target,
    ]
    built = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    return target


def test_every_verb_and_every_paper_has_its_place(site):
    verbs = (site / "cli" / "index.html").read_text()
    assert all(f'id="cmrkit-{verb}"' in verbs for verb in VERBS)
    pages = "".join(p.read_text() for p in (site / "families").rglob("index.html"))
    assert all(f'id="{recipe.key}"' in pages for recipe in load_all())


def test_the_python_reference_shows_signatures(site):
    page = re.sub("<[^>]+>", "", (site / "api" / "index.html").read_text())
    assert "reproduce(" in page
    assert "score_all_pairs(" in page


def test_what_the_pages_call_exists():
    """Verbs and keys in commands that the hand-written pages show."""
    known = {recipe.key for recipe in load_all()}
    for page in (ROOT / "docs" / "pages").glob("*.md"):
        for verb, key in re.findall(r"(?:^    |`)cmrkit ([a-z]+)(?: ([a-z][a-z0-9-]+))?", page.read_text(), re.M):
            assert verb in VERBS, (page.name, verb)
            if verb in ("reproduce", "plan", "compare") and key:
                assert key in known, (page.name, key)
