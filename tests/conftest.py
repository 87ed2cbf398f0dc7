"""Fixtures that several rooms' tests share."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Every test has a cache of its own, and none sees the user's."""
    path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("CMRKIT_CACHE", str(path))
    monkeypatch.delenv("CMRKIT_DEBUG", raising=False)
    return path


@pytest.fixture(scope="session")
def mirror():
    """The directory of real data fetched by hand."""
    path = os.environ.get("CMRKIT_MIRROR")
    if not path or not (Path(path) / "wikipedia").is_dir():
        pytest.skip("CMRKIT_MIRROR does not point to the real data")
    return Path(path)


@pytest.fixture
def cmrkit(own_cache):
    """Run the command line in a process of its own: ``cmrkit("list", "--json")``."""

    def run(*args, env=None, timeout=240, **options):
        command = [sys.executable, "-c", "from cmrkit.cli.main import main; main()", *map(str, args)]
        environment = {**os.environ, "CMRKIT_CACHE": str(own_cache), **(env or {})}
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout, check=False, **options
        )

    return run
