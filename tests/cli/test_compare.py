"""cmrkit compare and cmrkit completion, as a user types them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def test_compare_prints_a_table_and_writes_files(cmrkit, tmp_path):
    command = ("compare", "batch", "cvh", "-d", "digits", "--bits", "8", "--seeds", "2", "-o", tmp_path / "out")
    shown = cmrkit(*command)
    assert shown.returncode == 0, shown.stderr
    assert "\x1b" not in shown.stdout
    assert max(len(line) for line in shown.stdout.splitlines() if not line.startswith("wrote")) <= 100
    assert all(word in shown.stdout for word in ("BATCH", "CVH", "image to text", "±", "Holm"))
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"comparison.csv", "comparison.json", "comparison.md", "comparison.tex", "precision-at-n.pdf"} <= names
    document = json.loads(cmrkit(*command[:-2], "--json").stdout)
    assert document["written"] == []
    assert [row["key"] for row in document["rows"]] == ["batch", "cvh"]
    written = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert written["rows"] == document["rows"]


def test_matplotlib_is_imported_only_to_draw(own_cache):
    program = (
        "import sys; from cmrkit.cli.main import _guarded;"
        " code = _guarded('compare cvh -d digits --bits 8 --seeds 1'.split(), False);"
        " print(code, 'matplotlib' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "0 False"


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("compare", "-d", "digits"), "KEY"),
        (("compare", "batch"), "--dataset"),
        (("compare", "bacth", "-d", "digits"), "did you mean 'batch'"),
        (("compare", "batch", "vilt", "-d", "digits"), "vilt"),
        (("compare", "batch", "-d", "digits", "--seeds", "0"), "--seeds"),
        (("compare", "batch", "-d", "digits", "-o", __file__), "name a folder"),
    ],
)
def test_mistakes_exit_with_2(cmrkit, command, word):
    result = cmrkit(*command)
    assert result.returncode == 2, result.stderr
    assert word in result.stderr
    assert "Traceback" not in result.stderr


def complete(words, shell="bash"):
    """What a shell is offered for the last of ``words``, and which modules that took."""
    program = (
        "import atexit, sys; atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr));"
        "from cmrkit.cli.main import main; main()"
    )
    environment = {**os.environ, "_CMRKIT_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words),
                   "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1)}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    return done.stdout, done.stderr.split()


@pytest.mark.parametrize(
    ("words", "offered", "held_back"),
    [
        (["cmrkit", "com"], ["compare", "completion"], ["list"]),
        (["cmrkit", "reproduce", "b"], ["batch"], ["blip-9", "vilt"]),
        (["cmrkit", "show", "vi"], ["vilt"], ["batch"]),
        (["cmrkit", "compare", "batch", "ba"], [], ["batch"]),
        (["cmrkit", "compare", "batch", "-d", "wi"], ["wikipedia"], ["batch"]),
        (["cmrkit", "plan", "batch", "--dataset", ""], ["digits", "shapes", "mscoco"], ["batch"]),
        (["cmrkit", "download", "sh"], ["shapes"], ["batch"]),
        (["cmrkit", "list", "--family", "hashing_s"], ["hashing_supervised_deep"], ["scenarios"]),
        (["cmrkit", "reproduce", "--data"], ["--dataset"], ["--bits"]),
    ],
)
def test_verbs_papers_datasets_and_options_are_offered_lightly(words, offered, held_back):
    shown, modules = complete(words)
    lines = {line.partition(",")[2] for line in shown.splitlines()}
    assert set(offered) <= lines
    assert not set(held_back) & lines
    assert not {"torch", "numpy", "pydantic", "yaml", "rich"} & set(modules)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_papers_come_with_their_family(shell):
    shown, _ = complete(["cmrkit", "reproduce", "bat"], shell)
    assert "batch" in shown
    assert "hashing_supervised_shallow" in shown


def in_shell(name, *command, **options):
    program = shutil.which(name)
    if program is None or not (BIN / "cmrkit").exists():
        pytest.skip(f"{name} or an installed cmrkit is missing")
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run([program, *command], capture_output=True, text=True, env=environment, check=True, **options)


def test_bash_completes(tmp_path):
    script = (
        'eval "$(cmrkit completion bash)"; COMP_WORDS=(cmrkit reproduce bat); COMP_CWORD=2; _cmrkit_completion cmrkit;'
        ' echo "${COMPREPLY[@]}"; complete -p cmrkit'
    )
    shown = in_shell("bash", "--norc", "-c", script).stdout
    assert shown.splitlines()[0] == "batch"
    assert "_cmrkit_completion" in shown


def test_zsh_completes():
    script = (
        "function compdef { }; function _describe { local -a found; found=(${(P)3}); print -l -- $found };"
        ' eval "$(cmrkit completion zsh)"; words=(cmrkit reproduce bat); CURRENT=3; _cmrkit_completion'
    )
    assert "batch:hashing_supervised_shallow" in in_shell("zsh", "-f", "-c", script).stdout


def test_fish_completes():
    script = 'cmrkit completion fish | source; complete -C "cmrkit reproduce bat"'
    assert in_shell("fish", "--no-config", "-c", script).stdout.startswith("batch\thashing_supervised_shallow")
