"""cmrkit eval and cmrkit show, on what evaluates: files made elsewhere, options, and what is refused."""

import json

import numpy as np
import pytest

from cmrkit.evaluation import evaluate
from cmrkit.evaluation.metrics import METRICS
from cmrkit.evaluation.protocols import PROTOCOLS


def labelled(seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    draw = np.random.default_rng(100)
    labels = {"query_labels": draw.integers(0, 4, 40), "database_labels": draw.integers(0, 4, 90)}
    centres = draw.integers(0, 2, (4, 16))
    codes = {}
    for name in ("query_image", "query_text", "database_image", "database_text"):
        own = centres[labels["query_labels" if "query" in name else "database_labels"]]
        codes[name] = own ^ (rng.random(own.shape) < noise)
    return {**codes, **labels}


@pytest.fixture
def codes(tmp_path):
    np.savez(tmp_path / "codes.npz", **labelled())
    return tmp_path / "codes.npz"


def test_fields_of_the_protocol_and_metrics_are_chosen_on_the_command_line(cmrkit, codes):
    result = cmrkit("eval", "--codes", codes, "--metrics", "map@all,ndcg@10", "--set", "ties=worst", "--json")
    document = json.loads(result.stdout)
    assert document["metrics"]["map@all"] == evaluate(**labelled(), ties="worst")["map@all"]
    assert document["protocol"] == {"protocol": "hamming-map", "ties": "worst"}
    assert set(document["metrics"]) == {"map@all", "ndcg@10", "queries"}


def test_every_variant_is_printed_with_its_bounds(cmrkit, codes):
    shown = cmrkit("eval", "--codes", codes, "--all-protocols").stdout
    assert "[worst, best]" in shown
    bounds = (
        evaluate(**labelled(), ties="worst")["map@all"]["i2t"],
        evaluate(**labelled(), ties="best")["map@all"]["i2t"],
    )
    assert f"[{bounds[0]:.4f}, {bounds[1]:.4f}]" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_two_files_are_compared_query_by_query(cmrkit, codes, tmp_path):
    np.savez(tmp_path / "worse.npz", **labelled(noise=0.45))
    document = json.loads(cmrkit("eval", "--codes", codes, "--against", tmp_path / "worse.npz", "--json").stdout)
    test = document["comparison"]["map@all"]["i2t"]
    assert test["difference"] == pytest.approx(test["mean"] - test["against"])
    assert test["interval"][0] <= test["difference"] <= test["interval"][1]
    assert test["p_randomisation"] < 0.05
    other = {**labelled(noise=0.45), "query_labels": labelled()["query_labels"][::-1]}
    np.savez(tmp_path / "other.npz", **other)
    refused = cmrkit("eval", "--codes", codes, "--against", tmp_path / "other.npz")
    assert refused.returncode == 2
    assert "differ in query_labels" in refused.stderr


def test_rankings_and_packed_codes_score_like_the_arrays_they_were_written_from(cmrkit, codes, tmp_path):
    saved, prefix = tmp_path / "packed.npz", tmp_path / "ranked"
    written = json.loads(
        cmrkit("eval", "--codes", codes, "--save-codes", saved, "--save-run", prefix, "--json").stdout
    )  # fmt: skip
    assert len(written["written"]) == 5
    again = json.loads(cmrkit("eval", "--codes", saved, "--json").stdout)
    assert again["metrics"] == written["metrics"]
    run = json.loads(
        cmrkit("eval", "--run", f"{prefix}.t2i.run", "--qrels", f"{prefix}.t2i.qrels", "--metrics", "map@all,map@50",
               "--json").stdout
    )  # fmt: skip
    for metric in ("map@all", "map@50"):
        assert run["metrics"][metric] == pytest.approx(written["metrics"][metric]["t2i"])


def test_a_checkpoint_is_evaluated_compared_and_indexed(cmrkit, tmp_path):
    command = ("reproduce", "cca", "-d", "digits", "--seed", "0", "--json")
    run = json.loads(cmrkit(*command).stdout)["runs"][0]
    checkpoint = run["checkpoint"]
    document = json.loads(cmrkit("eval", "--ckpt", checkpoint, "--set", "similarity=euclidean", "--json").stdout)
    assert document["metrics"]["map@all"] != run["metrics"]["map@all"]
    same = json.loads(cmrkit("eval", "--ckpt", checkpoint, "--against", checkpoint, "--json").stdout)
    assert same["comparison"]["map@all"]["i2t"]["difference"] == 0
    index = cmrkit("index", "--ckpt", checkpoint, "--modality", "image", "-o", tmp_path / "x.faiss", "--json")
    assert json.loads(index.stdout)["kind"] == "IndexFlatIP"


def test_listed_positives_of_mscoco_come_from_its_files(cmrkit, mirror, tmp_path):
    rng = np.random.default_rng(0)
    pairs = np.repeat(np.arange(5000), 5)
    image = rng.standard_normal((5000, 16)).astype(np.float32)
    text = image[pairs] + rng.standard_normal((25000, 16)).astype(np.float32)
    np.savez(tmp_path / "coco.npz", query_image=image, query_text=text, pairs=pairs, space="cosine")
    result = cmrkit("eval", "--codes", tmp_path / "coco.npz", "--protocol", "eccv-caption", "--json")
    metrics = json.loads(result.stdout)["metrics"]
    assert metrics["queries"] == {"i2t": 1261, "t2i": 1332}
    np.savez(tmp_path / "other.npz", query_image=image[:10], query_text=text[:50], pairs=pairs[:50], space="cosine")
    refused = cmrkit("eval", "--codes", tmp_path / "other.npz", "--protocol", "cxc")
    assert refused.returncode == 2
    assert "10 images" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--run", "x.run"), "--run and --qrels go together"),
        (("--codes", "{codes}", "--ckpt", "x"), "give one of"),
        (("--codes", "{codes}", "--set", "tise=worst"), "did you mean 'ties'"),
        (("--codes", "{codes}", "--set", "ties=random"), "choose from expected, worst, best, stable"),
        (("--codes", "{codes}", "--metrics", "map@oll"), "did you mean 'map@all'"),
        (("--codes", "{codes}", "--metrics", "map@all:11-point"), "choose ties stable, worst or best"),
        (("--codes", "{codes}", "--protocol", "hamming-mep"), "did you mean 'hamming-map'"),
        (("--codes", "{codes}", "--protocol", "cxc"), "pairs, the image row of each, is missing"),
        (("--codes", "{codes}", "--memory", "much"), "a size such as 500MB"),
        (("--codes", "{codes}", "--device", "cuda:99"), "no device 'cuda:99' here"),
        (("--codes", "{codes}", "--all-protocols", "--protocol", "hamming-map"), "leave --protocol"),
        (("--codes", "{codes}", "--dataset", "wikipedia"), "--dataset goes with --ckpt"),
    ],
)
def test_a_mistake_ends_with_one_line_and_exit_code_2(cmrkit, codes, arguments, message):
    result = cmrkit("eval", *(a.format(codes=codes) for a in arguments))
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_bad_arrays_are_named_with_their_row(cmrkit, tmp_path):
    good = labelled()
    bad = {
        "NaN": ({**good, "space": "cosine", "query_image": np.full((40, 16), np.nan)}, "query_image row 0 holds nan"),
        "not binary": ({**good, "database_text": good["database_text"] * 3}, "database_text row"),
        "bits": ({**good, "query_text": good["query_text"][:, :9]}, "bad.npz: query_text has 9 bits, but"),
        "width of labels": (
            {**good, "database_labels": np.eye(4, dtype=int)[good["database_labels"]]},
            "are 4 classes",
        ),
        "empty": ({**good, "query_image": np.zeros((0, 16))}, "query_image is empty"),
        "nothing relevant": ({**good, "database_labels": good["database_labels"] + 10}, "no query has a relevant item"),
        "ids": ({**good, "query_ids": np.zeros(40, int)}, "query_ids rows 0 and 1 both hold 0"),
    }
    for what, (arrays, message) in bad.items():
        np.savez(tmp_path / "bad.npz", **arrays)
        result = cmrkit("eval", "--codes", tmp_path / "bad.npz")
        assert result.returncode == 2, what
        assert message in result.stderr, what


@pytest.mark.parametrize("name", ["protocols", "metrics", "map@500", *list(PROTOCOLS)[:2]])
def test_show_explains_protocols_and_metrics(cmrkit, name):
    shown = cmrkit("show", name)
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 100
    document = json.loads(cmrkit("show", name, "--json").stdout)
    if name == "protocols":
        assert [entry["name"] for entry in document[name]] == list(PROTOCOLS)
    elif name == "metrics":
        assert [entry["name"] for entry in document[name]] == list(METRICS)
    else:
        assert document["definition"]
