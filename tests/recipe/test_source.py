"""Faults in YAML are reported with file and line and the nearest right word."""

import shutil

import pytest

from cmrkit.errors import UsageError
from cmrkit.recipe.library import load_all, load_manifest, read_recipe, recipe_path


@pytest.fixture
def edited(tmp_path):
    """Return the error that an edit of the BATCH recipe gives."""

    def edit(old, new):
        folder = tmp_path / "hashing_supervised_shallow"
        folder.mkdir(exist_ok=True)
        path = folder / "batch.yaml"
        shutil.copy(recipe_path("batch"), path)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        line = text[: text.index(old)].count("\n") + 1
        with pytest.raises(UsageError) as error:
            read_recipe(path)
        return str(error.value), f"{path}:{line}:"

    return edit


def test_every_recipe_is_valid():
    assert len(load_all()) >= 349


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nstatus:", "\nstatsu:", "did you mean 'status'"),
        ("\nstatus: ", "\nstatus: un", "status"),
        ("\n  year: ", "\n  year: about ", "year"),
        ("\neval:", "\nfoo: bar\neval:", "unknown key 'foo'"),
        ("\nfidelity:", "\nstatus: runnable\nfidelity:", "given twice"),
    ],
)
def test_a_fault_names_its_line(edited, old, new, message):
    error, _ = edited(old, new)
    assert message in error
    assert "batch.yaml:" in error


def test_the_line_is_the_right_one(edited):
    error, place = edited("status: ", "status: un")
    assert error.startswith(place)


def test_broken_yaml_names_its_line(edited):
    error, _ = edited("paper:", "paper: [")
    assert "batch.yaml:" in error


def test_unknown_datasets_are_answered_with_near_ones():
    with pytest.raises(UsageError, match="did you mean 'wikipedia'"):
        load_manifest("wikipeda")
