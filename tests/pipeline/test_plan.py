"""Keys change exactly when something that a result depends on changes."""

import json

import pytest

import cmrkit
from cmrkit.errors import CmrkitError, UsageError
from cmrkit.pipeline.digest import source_digest
from cmrkit.pipeline.plan import plan_run
from cmrkit.pipeline.resolve import parse_integers, parse_overrides, resolve


def keys(**options):
    run = resolve("batch", "digits", bits=[16], seeds=[0], **options)[0]
    return {s.name: s.key for s in plan_run(run).ancestry()}


def test_the_plan_is_stable_and_complete():
    assert keys() == keys()
    assert list(keys()) == ["download", "prepare", "features", "train", "encode", "evaluate"]


def test_a_training_parameter_changes_training_and_what_follows():
    before, after = keys(), keys(overrides={"train.iterations": 2})
    assert [n for n in before if before[n] != after[n]] == ["train", "encode", "evaluate"]


def test_an_evaluation_choice_changes_evaluation_alone():
    before, after = keys(), keys(overrides={"eval.ties": "stable"})
    assert [n for n in before if before[n] != after[n]] == ["evaluate"]


def test_comments_layout_and_docstrings_change_no_digest(tmp_path):
    def digest(text):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        return source_digest(path)

    plain = digest('"""Doc."""\nx = 1\n\ndef f(a):\n    """Say."""\n    return a + 1\n')
    assert plain == digest('"""Other."""\n# why\nx  =  1\ndef f( a ):\n\n    return (a+1)  # so\n')
    assert plain != digest('"""Doc."""\nx = 1\n\ndef f(a):\n    """Say."""\n    return a + 2\n')


def test_a_digest_covers_imported_modules():
    from cmrkit.recipe.library import PACKAGE

    family = PACKAGE / "methods" / "hashing_supervised_shallow"
    assert source_digest(family / "batch.py") != source_digest(PACKAGE / "methods" / "base.py")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"train.iteration": 2}}, "did you mean 'iterations'"),
        ({"overrides": {"train.iterations": "many"}}, "integer"),
        ({"overrides": {"nonsense": 2}}, "unknown setting"),
        ({"overrides": {"eval.ties": "random"}}, "ties"),
        ({"overrides": {"model.name": "x"}}, "unknown parameter"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        resolve("batch", "digits", **options)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(UsageError, match="did you mean 'batch'"):
        resolve("bach")
    with pytest.raises(UsageError, match="did you mean 'wikipedia'"):
        resolve("batch", "wikipedai")
    with pytest.raises(UsageError, match="no 'bits'"):
        resolve("cca", "digits", bits=[16])


def test_a_catalogued_paper_names_its_runnable_relatives():
    with pytest.raises(CmrkitError, match=r"no method here yet; .*batch") as error:
        resolve("ascsh")
    assert error.value.exit_code == 1


def test_integers_and_overrides_are_parsed_strictly():
    assert parse_integers("16,32,16", "--bits") == [16, 32]
    assert parse_overrides(["a.b=[1, 2]", "c=x"]) == {"a.b": [1, 2], "c": "x"}
    for text, option in (("16;32", "--bits"), ("0", "--bits"), ("-1", "--seed")):
        with pytest.raises(UsageError, match=option):
            parse_integers(text, option)
    with pytest.raises(UsageError, match="NAME=VALUE"):
        parse_overrides(["a.b"])


def test_force_repeats_a_step_and_what_depends_on_it(tmp_path):
    options = {"bits": [8], "seeds": [0], "cache": tmp_path}
    first = cmrkit.reproduce("batch", "digits", **options)
    forced = cmrkit.reproduce("batch", "digits", **options, force="encode")
    assert {s["name"] for s in forced["steps"] if not s["cached"]} == {"encode", "evaluate"}
    assert forced["runs"][0]["metrics"] == first["runs"][0]["metrics"]


def test_a_damaged_artifact_is_done_again(tmp_path, capsys):
    options = {"bits": [8], "seeds": [0], "cache": tmp_path}
    first = cmrkit.reproduce("batch", "digits", **options)
    found = {s["name"]: s["key"] for s in first["steps"]}
    for name, file in (("evaluate", "metrics.json"), ("train", "model.safetensors")):
        path = tmp_path / "artifacts" / name / found[name] / file
        path.write_bytes(path.read_bytes()[:-10] + b"0123456789")
    again = cmrkit.reproduce("batch", "digits", **options, force="encode")
    assert again["runs"][0]["metrics"] == first["runs"][0]["metrics"]
    assert "damaged" in capsys.readouterr().err


def test_a_record_tells_how_a_number_came_about(tmp_path):
    document = cmrkit.reproduce("batch", "digits", bits=[8], seeds=[0], cache=tmp_path)
    with open(document["runs"][0]["record"]) as file:
        record = json.load(file)
    assert record["metrics"] == document["runs"][0]["metrics"]
    assert {"params", "seed", "steps", "seconds", "environment", "eval", "variants"} <= set(record)


def test_recall_counts_each_image_once_and_any_of_its_captions(tmp_path):
    overrides = {"eval.protocol": "recall", "model.variant": "cm", "model.correlation": "cca"}
    document = cmrkit.reproduce("cca", "shapes", seeds=[0], overrides=overrides, cache=tmp_path)
    metrics = document["runs"][0]["metrics"]
    # 400 query images with five captions each: chance is 0.25 % text to image and about 1.2 % image to text.
    assert metrics["r@10"]["t2i"] > 10
    assert metrics["r@10"]["i2t"] > 10
    assert metrics["r@1"]["i2t"] <= metrics["r@5"]["i2t"] <= metrics["r@10"]["i2t"]
