"""The verbs, as a user types them."""

import json
import subprocess
import sys

import numpy as np
import pytest


def test_help_is_light():
    program = (
        "import sys; from cmrkit.cli.main import _guarded; _guarded(['--help'], False); print(sorted(sys.modules))"
    )
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for heavy in ("'torch'", "'numpy'", "'scipy'", "'pydantic'", "'rich'"):
        assert heavy not in modules


def test_a_cached_run_imports_no_torch_and_prints_paper_beside_ours(cmrkit):
    command = ("reproduce", "batch", "-d", "digits", "--bits", "16", "--seed", "0,1")
    assert cmrkit(*command).returncode == 0
    again = cmrkit(*command)
    assert "every step was cached" in again.stdout
    assert "\x1b" not in again.stdout
    assert again.stderr == ""


def test_list_filters_and_counts(cmrkit):
    everything = json.loads(cmrkit("list", "--json").stdout)
    assert len(everything) == 349
    assert set(everything[0]) == {
        "key", "acronym", "title", "venue", "year", "family", "taxonomy", "status", "fidelity", "datasets"
    }  # fmt: skip
    some = json.loads(cmrkit("list", "--json", "--family", "adjacent").stdout)
    assert len(some) == 7
    runnable = cmrkit("list", "--status", "runnable", "--dataset", "wikipedia")
    assert "batch" in runnable.stdout
    assert max(map(len, runnable.stdout.splitlines())) <= 100
    assert cmrkit("list", "--family", "nonsense").returncode == 2


def test_show_prints_paper_and_bibtex(cmrkit):
    shown = cmrkit("show", "batch")
    assert shown.returncode == 0
    assert "@article{batch" in shown.stdout or "@inproceedings{batch" in shown.stdout
    assert json.loads(cmrkit("show", "batch", "--json").stdout)["key"] == "batch"


def test_plan_and_dry_run_do_nothing(cmrkit, own_cache):
    for command in (("plan", "batch"), ("reproduce", "batch", "--dry-run")):
        result = cmrkit(*command, "-d", "digits", "--bits", "16", "--seed", "0", "--json")
        document = json.loads(result.stdout)
        assert not any(s["cached"] for s in document["steps"])
    assert not list((own_cache / "artifacts").iterdir())


def test_download_of_an_embedded_dataset_says_so(cmrkit):
    assert "embedded" in cmrkit("download", "shapes").stdout
    assert cmrkit("download", "shaps").returncode == 2


def test_missing_files_are_named_with_where_to_put_them(cmrkit):
    result = cmrkit("reproduce", "batch", "-d", "wikipedia", "--offline", env={"CMRKIT_MIRROR": ""})
    assert result.returncode == 1
    assert "raw_features.mat" in result.stderr
    assert "Traceback" not in result.stderr


def test_eval_of_a_checkpoint_gives_the_reproduced_numbers(cmrkit):
    command = ("reproduce", "batch", "-d", "digits", "--bits", "16", "--seed", "0", "--json")
    run = json.loads(cmrkit(*command).stdout)["runs"][0]
    document = json.loads(cmrkit("eval", "--ckpt", run["checkpoint"], "--json").stdout)
    assert document["metrics"]["map@all"] == run["metrics"]["map@all"]
    every = json.loads(cmrkit("eval", "--ckpt", run["checkpoint"], "--all-protocols", "--json").stdout)
    assert len(every["metrics"]) > 4


def test_eval_of_codes(cmrkit, tmp_path):
    labels = np.eye(3, dtype=np.uint8)[np.arange(30) % 3]
    codes = np.where(np.repeat(labels, 4, axis=1), 1, -1).astype(np.int8)
    path = tmp_path / "codes.npz"
    np.savez(path, query_image=codes, query_text=codes, database_image=codes, database_text=codes,
             query_labels=labels, database_labels=labels, space="hamming")  # fmt: skip
    document = json.loads(cmrkit("eval", "--codes", path, "--json").stdout)
    assert document["metrics"]["map@all"] == {"i2t": 1.0, "t2i": 1.0}
    np.savez(tmp_path / "pickled.npz", query_image=np.array([{}], dtype=object))
    refused = cmrkit("eval", "--codes", tmp_path / "pickled.npz")
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("command", "code", "word"),
    [
        (("reproduc", "batch"), 2, "did you mean 'reproduce'"),
        (("reproduce", "bacth"), 2, "did you mean 'batch'"),
        (("reproduce", "batch", "-d", "nowhere"), 2, "no dataset"),
        (("reproduce", "batch", "--bits", "x"), 2, "--bits"),
        (("reproduce", "batch", "--force", "tran"), 2, "did you mean 'train'"),
        (("reproduce", "batch", "--device", "cuda:0"), 2, "CPU"),
        (("reproduce", "dvsh"), 1, "catalogued"),
        (("eval",), 2, "--ckpt"),
        (("eval", "--ckpt", "/nonexistent"), 2, "not a checkpoint"),
        (("new", "Bad Key", "--like", "batch"), 2, "lower-case"),
    ],
)
def test_mistakes_are_answered_in_one_line(cmrkit, command, code, word):
    result = cmrkit(*command)
    assert result.returncode == code, result.stderr
    assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_a_cache_that_is_a_file_is_a_clear_error(cmrkit, tmp_path):
    (tmp_path / "file").write_text("")
    result = cmrkit("cache", "ls", env={"CMRKIT_CACHE": str(tmp_path / "file")})
    assert result.returncode == 1
    assert "CMRKIT_CACHE" in result.stderr


def test_cache_lists_verifies_and_collects(cmrkit):
    cmrkit("reproduce", "cca", "-d", "digits", "--seed", "0")
    rows = json.loads(cmrkit("cache", "ls", "--json").stdout)
    assert {r["step"] for r in rows} >= {"train", "encode", "evaluate"}
    assert cmrkit("cache", "verify").returncode == 0
    assert json.loads(cmrkit("cache", "pin", rows[0]["key"], "--json").stdout)["pinned"]
    with open(f"{rows[-1]['path']}/artifact.json", "a") as file:
        file.write("x")
    assert cmrkit("cache", "verify").returncode == 1
    assert json.loads(cmrkit("cache", "gc", "--older-than", "0", "--json").stdout)["removed"]


def test_doctor_and_schema(cmrkit):
    assert cmrkit("doctor").returncode == 0
    assert "paper" in json.loads(cmrkit("schema").stdout)["properties"]
    assert "assets" in json.loads(cmrkit("schema", "dataset").stdout)["properties"]


def test_new_writes_two_files_that_run(cmrkit, tmp_path):
    written = cmrkit("new", "my-hash", "--like", "batch", "--into", tmp_path)
    assert written.returncode == 0, written.stderr
    assert len(written.stdout.split()) == 2
    result = cmrkit("reproduce", "my-hash", "-d", "digits", "--bits", "8", "--seed", "0", "--json",
                    env={"CMRKIT_PATH": str(tmp_path)})  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["recipe"] == "my-hash"
    assert cmrkit("new", "my-hash", "--like", "batch", "--into", tmp_path).returncode == 2


def test_a_checkpoint_of_another_format_is_refused(cmrkit):
    run = json.loads(cmrkit("reproduce", "cca", "-d", "digits", "--seed", "0", "--json").stdout)["runs"][0]
    path = f"{run['checkpoint']}/checkpoint.json"
    with open(path) as file:
        about = json.load(file)
    with open(path, "w") as file:
        json.dump({**about, "format": 99}, file)
    result = cmrkit("eval", "--ckpt", run["checkpoint"])
    assert result.returncode == 2
    assert "format 99" in result.stderr
