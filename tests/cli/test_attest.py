"""cmrkit attest and cmrkit verify, as a user types them."""

import json

import pytest


@pytest.fixture
def attested(cmrkit, tmp_path):
    assert cmrkit("reproduce", "ml-cca", "-d", "digits").returncode == 0
    done = cmrkit("attest", "ml-cca", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results" / "ml-cca").glob("digits-*.json")
    assert str(path.relative_to(tmp_path)) in done.stdout
    return path


def test_an_attestation_holds_until_a_number_is_changed(cmrkit, attested):
    good = cmrkit("verify", attested)
    assert good.returncode == 0, good.stdout + good.stderr
    assert "holds" in good.stdout
    assert "to the last bit" in good.stdout
    document = json.loads(attested.read_text(encoding="utf-8"))
    document["runs"][0]["metrics"]["map@all"]["t2i"] = 0.99
    attested.write_text(json.dumps(document), encoding="utf-8")
    bad = cmrkit("verify", attested, "--no-rerun")
    assert bad.returncode == 1
    assert "DOES NOT HOLD" in bad.stdout
    assert "hash" in bad.stdout


def test_json_is_one_document_and_the_exit_code_stays(cmrkit, attested, tmp_path):
    (report,) = json.loads(cmrkit("verify", attested, "--no-rerun", "--json").stdout)
    assert report["holds"]
    assert report["runs"] == []
    document = json.loads(cmrkit("attest", "ml-cca", "-o", tmp_path / "own.json", "--json").stdout)
    assert document["written"] == str(tmp_path / "own.json")
    (tmp_path / "own.json").write_text(
        (tmp_path / "own.json").read_text(encoding="utf-8").replace('"seed": 0', '"seed": 1')
    )
    broken = cmrkit("verify", tmp_path / "own.json", "--json")
    assert broken.returncode == 1
    assert not json.loads(broken.stdout)[0]["sealed"]


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (("attest",), "RECORD"),
        (("attest", "batch"), "cmrkit reproduce"),
        (("attest", "nothing.json"), "no such file"),
        (("verify",), "FILE"),
        (("verify", "nothing.json"), "cannot be read"),
        (("verify", __file__), "not readable as JSON"),
    ],
)
def test_mistakes_exit_with_2(cmrkit, command, word):
    result = cmrkit(*command)
    assert result.returncode == 2, result.stderr
    assert word in result.stderr
    assert "Traceback" not in result.stderr
