"""Pairs reach the scorer once, in order, and nothing that was scored is lost or mixed up."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cmrkit.errors import CmrkitError, UsageError
from cmrkit.evaluation import evaluate_matrix, reranking
from cmrkit.evaluation.reranking import check_similarity, rerank, score_all_pairs, shortlist

IMAGES, TEXTS = 9, 23
LOGITS = np.random.default_rng(5).normal(size=(IMAGES, TEXTS)).astype(np.float32)
SIMILARITY = np.random.default_rng(6).uniform(-1, 1, size=(IMAGES, TEXTS)).astype(np.float32)


class Scorer:
    """Look up LOGITS, and remember what was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, image_rows, text_rows):
        self.calls.append(list(zip(image_rows.tolist(), text_rows.tolist(), strict=True)))
        return LOGITS[image_rows, text_rows]

    @property
    def pairs(self):
        return [pair for call in self.calls for pair in call]


class InterruptedScorerError(Exception):
    """Stands for whatever ends a run."""


def stopping_after(blocks):
    scorer = Scorer()

    def score(image_rows, text_rows):
        if len(scorer.calls) == blocks:
            raise InterruptedScorerError
        return scorer(image_rows, text_rows)

    return score


def top(values, k):
    return sorted(range(len(values)), key=lambda j: (-values[j], j))[:k]


def test_all_pairs_are_scored_once_image_by_image_in_blocks():
    scorer = Scorer()
    found = score_all_pairs(scorer, IMAGES, TEXTS, block=10)
    assert np.array_equal(found, LOGITS)
    assert found.dtype == np.float32
    assert scorer.pairs == [(i, t) for i in range(IMAGES) for t in range(TEXTS)]
    assert {len(call) for call in scorer.calls[:-1]} == {10}


@pytest.mark.parametrize("combine", ["logit", "logit+similarity"])
@pytest.mark.parametrize("k", [1, 4, 12])
def test_each_direction_is_reranked_as_the_published_loops_do(k, combine):
    expected = {d: np.full((IMAGES, TEXTS), -100, dtype=np.float32) for d in ("i2t", "t2i")}
    added = SIMILARITY if combine == "logit+similarity" else np.zeros_like(SIMILARITY)
    for image in range(IMAGES):
        for text in top(SIMILARITY[image], k):
            expected["i2t"][image, text] = LOGITS[image, text] + added[image, text]
    for text in range(TEXTS):
        for image in top(SIMILARITY[:, text], k):
            expected["t2i"][image, text] = LOGITS[image, text] + added[image, text]
    found = rerank(Scorer(), SIMILARITY, k, combine=combine)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[d], expected[d]) for d in expected)


def test_a_pair_on_both_shortlists_is_scored_once_and_in_image_major_order():
    scorer = Scorer()
    rerank(scorer, SIMILARITY, 4, block=7)
    listed = {(i, t) for i in range(IMAGES) for t in top(SIMILARITY[i], 4)}
    listed |= {(i, t) for t in range(TEXTS) for i in top(SIMILARITY[:, t], 4)}
    assert scorer.pairs == sorted(listed)


def test_unlisted_pairs_tie_below_scores_however_low():
    for shift in (0, -1e4, -1e30):
        found = rerank(lambda i, t, shift=shift: LOGITS[i, t] + shift, SIMILARITY, 3)["i2t"]
        listed = shortlist(SIMILARITY, 3)
        assert len(np.unique(found[~listed])) == 1
        assert found[~listed][0] < found[listed].min()
        assert np.isfinite(found).all()


def test_a_shortlist_of_everything_is_the_full_protocol():
    found = rerank(Scorer(), SIMILARITY, TEXTS)
    assert all(np.array_equal(matrix, LOGITS) for matrix in found.values())


def test_a_right_item_off_the_shortlist_is_lost_however_good_its_score():
    similarity = np.array([[9, 8, 2, 1], [7, 9, 1, 2], [8, 9, 0, 1], [1, 9, 8, 0]])
    found = rerank(lambda i, t: np.where(i == t, 5.0, -5.0), similarity, 2)
    recall = {d: evaluate_matrix(found[d], pairs=np.arange(4), metrics=["r@1"])["r@1"][d] for d in found}
    assert recall == {"i2t": 50, "t2i": 50}


def test_a_shortlist_breaks_ties_by_row():
    assert shortlist(np.array([[1, 3, 2, 2, 2, 0]]), 3).tolist() == [[False, True, True, True, False, False]]
    assert shortlist(np.zeros((2, 4)), 2).tolist() == [[True, True, False, False]] * 2


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path):
    for blocks in (3, 2):
        with pytest.raises(InterruptedScorerError):
            rerank(stopping_after(blocks), SIMILARITY, 4, block=8, resume=tmp_path, key="model")
    scorer, whole = Scorer(), Scorer()
    found = rerank(scorer, SIMILARITY, 4, block=8, resume=tmp_path, key="model")
    expected = rerank(whole, SIMILARITY, 4, block=8)
    assert scorer.calls == whole.calls[5:]
    assert all(np.array_equal(found[d], expected[d]) for d in expected)
    again = Scorer()
    rerank(again, SIMILARITY, 4, block=8, resume=tmp_path, key="model")
    assert again.calls == []


def test_changing_the_result_does_not_change_the_folder(tmp_path):
    score_all_pairs(Scorer(), IMAGES, TEXTS, resume=tmp_path, key="m")[:] = 0
    assert np.array_equal(score_all_pairs(Scorer(), IMAGES, TEXTS, resume=tmp_path, key="m"), LOGITS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"key": "other"}, "key 'model', not 'other'"),
        ({"k": 5}, "k 4, not 5"),
        ({"block": 9}, "block 8, not 9"),
        ({"combine": "logit+similarity"}, "combine"),
        ({"similarity": -SIMILARITY}, "pairs"),
        ({"similarity": SIMILARITY[:, 1:]}, "shape"),
    ],
)
def test_the_folder_of_another_computation_is_refused(tmp_path, change, named):
    arguments = {"similarity": SIMILARITY, "k": 4, "block": 8, "key": "model"}
    rerank(Scorer(), **arguments, resume=tmp_path)
    before = (tmp_path / "scores.npy").read_bytes()
    with pytest.raises(UsageError, match=f"holds another computation.*{named}"):
        rerank(Scorer(), **arguments | change, resume=tmp_path)
    with pytest.raises(UsageError, match="holds another computation"):
        score_all_pairs(Scorer(), IMAGES, TEXTS, block=8, key="model", resume=tmp_path)
    assert (tmp_path / "scores.npy").read_bytes() == before


def test_folders_that_are_not_ours_or_are_damaged_are_refused(tmp_path):
    def run():
        score_all_pairs(Scorer(), IMAGES, TEXTS, block=10, key="m", resume=tmp_path)

    note, data = tmp_path / "progress.json", tmp_path / "scores.npy"
    data.write_bytes(b"somebody's")
    with pytest.raises(UsageError, match=r"has no progress\.json"):
        run()
    assert data.read_bytes() == b"somebody's"
    for text in ("[1]", "{", '{"what": 3, "digest": "", "done": 1}'):
        note.write_text(text)
        with pytest.raises(UsageError, match="not a progress file"):
            run()
    note.unlink()
    data.unlink()
    run()
    kept = data.read_bytes()
    other = tmp_path / "other.npy"
    np.save(other, np.zeros(3))
    for broken in (b"", kept[:-5], kept[:60], other.read_bytes()):
        data.write_bytes(broken)
        with pytest.raises(UsageError, match="delete the folder"):
            run()
    data.write_bytes(kept)
    note.write_text(json.dumps(json.loads(note.read_text()) | {"done": 999}))
    with pytest.raises(UsageError, match="counts 999 of 207 pairs"):
        run()


def test_two_processes_never_score_in_one_folder(tmp_path):
    def nested(image_rows, text_rows):
        score_all_pairs(Scorer(), IMAGES, TEXTS, key="m", resume=tmp_path)

    with pytest.raises(UsageError, match="another process is scoring"):
        score_all_pairs(nested, IMAGES, TEXTS, key="m", resume=tmp_path)


KILLED = """
import sys, time
import numpy as np
from cmrkit.evaluation import reranking
reranking.SAVE_EVERY = 0.0
weights = np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)

def scorer(image_rows, text_rows):
    # Bits depend on which pairs share a call, as they do on real hardware.
    features = np.sin(image_rows[:, None] * 0.1 + text_rows[:, None] * 0.37 + np.arange(64)).astype(np.float32)
    scores = (features @ weights).sum(1) + np.float32(1e-3) * features.sum()
    with open(sys.argv[2], "a") as log:
        log.write(f"{image_rows[0]},{text_rows[0]}\\n")
    time.sleep(float(sys.argv[3]))
    return scores

similarity = np.random.default_rng(1).normal(size=(120, 150))
found = reranking.rerank(scorer, similarity, 9, block=7, resume=sys.argv[1] or None, key="model")
np.savez(sys.argv[4], **found)
"""


def start(folder, log, seconds, out):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", KILLED, folder, log, str(seconds), out], env=environment)


def test_a_run_killed_at_any_time_ends_with_the_same_bits(tmp_path):
    folder, log, whole = tmp_path / "resume", tmp_path / "log", tmp_path / "whole"
    assert start("", whole, 0, tmp_path / "expected.npz").wait(60) == 0
    blocks = whole.read_text().splitlines()
    log.touch()
    delays = np.random.default_rng(int(time.time())).uniform(0, 0.05, size=2)
    for delay in delays:
        enough = len(log.read_text().splitlines()) + 12
        process = start(folder, log, 0.005, tmp_path / "never.npz")
        deadline = time.monotonic() + 30
        while len(log.read_text().splitlines()) < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert json.loads((folder / "progress.json").read_text())["done"] > 0
    assert start(folder, log, 0, tmp_path / "found.npz").wait(60) == 0
    scored = log.read_text().splitlines()
    assert set(scored) == set(blocks)
    assert len(scored) <= len(blocks) + len(delays)  # one unfinished block a kill, at most
    with np.load(tmp_path / "expected.npz") as expected, np.load(tmp_path / "found.npz") as found:
        assert all(expected[d].tobytes() == found[d].tobytes() for d in ("i2t", "t2i"))


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e39, "inf")])
def test_a_score_that_is_not_finite_names_its_pair(value, shown):
    def scorer(image_rows, text_rows):
        return np.where((image_rows == 4) & (text_rows == 6), value, 0.0)

    with pytest.raises(CmrkitError, match=f"returned {shown} for image 4 with text 6"):
        score_all_pairs(scorer, IMAGES, TEXTS)


@pytest.mark.parametrize("wrong", [lambda i: np.zeros(len(i) - 1), lambda i: np.zeros((len(i), 1)), lambda i: 0.5])
def test_a_wrong_number_of_scores_is_an_error(wrong):
    with pytest.raises(CmrkitError, match="got 10 pairs, but returned scores of shape"):
        score_all_pairs(lambda i, t: wrong(i), IMAGES, TEXTS, block=10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be a whole number of at least 1, not 0"),
        ({"block": 2.5}, "block must be a whole number"),
        ({"combine": "mean"}, "unknown combination 'mean'"),
        ({"resume": "somewhere"}, "resume needs a key"),
        ({"similarity": np.zeros(3)}, "similarity must be a numeric matrix"),
        ({"similarity": np.array([[0, 0], [0, np.nan]])}, "similarity row 1 holds nan at column 1"),
    ],
)
def test_what_cannot_be_reranked_is_refused_by_name(change, message):
    with pytest.raises(UsageError, match=message):
        rerank(Scorer(), **{"similarity": SIMILARITY, "k": 2} | change)


def test_single_and_double_precision_similarities_stay_what_they_are():
    for dtype, kept in ((np.float32, np.float32), (np.float64, np.float64), (np.int8, np.float64)):
        assert check_similarity("similarity", np.ones((2, 2), dtype=dtype)).dtype == kept


def test_progress_is_shown_on_terminals_only(capsys, monkeypatch):
    score_all_pairs(Scorer(), IMAGES, TEXTS, progress=True)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    score_all_pairs(Scorer(), IMAGES, TEXTS, progress=False)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    score_all_pairs(Scorer(), IMAGES, TEXTS, progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "207/207" in shown.err
    assert "pairs/s" in shown.err


def test_finished_blocks_reach_the_disk_while_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(reranking, "SAVE_EVERY", 0.0)
    seen = []

    def scorer(image_rows, text_rows):
        seen.append(json.loads((tmp_path / "progress.json").read_text())["done"])
        return LOGITS[image_rows, text_rows]

    score_all_pairs(scorer, IMAGES, TEXTS, block=50, key="m", resume=tmp_path)
    assert seen == [0, 50, 100, 150, 200]
