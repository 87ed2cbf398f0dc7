"""What a declared setting does to training: noise by image, and data that arrive in rounds."""

import numpy as np
import pytest

from cmrkit.data.settings import noisy_pairs, rounds
from cmrkit.errors import UsageError
from cmrkit.methods.base import Pairs
from cmrkit.pipeline.featureset import FeatureSet
from cmrkit.pipeline.plan import plan_run
from cmrkit.pipeline.resolve import resolve
from cmrkit.pipeline.training import _train_shallow, _training_pairs
from cmrkit.recipe.model import Setting

FIVE = np.repeat(np.arange(200), 5)  # five texts an image


def features(n=60, texts=2):
    """Each image's feature is its own row, each text's its image's row."""
    pairs = np.repeat(np.arange(n), texts)
    labels = np.eye(4, dtype=np.uint8)[np.arange(n) % 4]
    splits = {"train": np.arange(n - 10), "query": np.arange(n - 10, n)}
    return FeatureSet(np.arange(n)[:, None] / 1.0, pairs[:, None] / 1.0, labels, pairs, splits)


class Recorder:
    """Learns, as the code of a pair, the row of its image."""

    space = "cosine"

    def fit_rounds(self, arriving):
        self.seen = list(arriving)
        self.image_codes_ = np.concatenate([part.image for part in self.seen])
        self.text_codes_ = np.concatenate([part.text for part in self.seen])

    def fit(self, train):
        self.fit_rounds([train])


def trained(setting, preprocess=()):
    method, data = Recorder(), features()
    names = {"image": list(preprocess), "text": list(preprocess)}
    _train_shallow(method, {"preprocess": names, "setting": setting}, data, {}, None)
    return method


class TestPairNoise:
    def test_by_image_all_texts_of_an_image_move_together(self):
        noisy = noisy_pairs(FIVE, 0.4, seed=0, unit="image").reshape(200, 5)
        assert (noisy == noisy[:, :1]).all()
        np.testing.assert_array_equal(np.sort(noisy[:, 0]), np.arange(200))
        assert (noisy[:, 0] != np.arange(200)).mean() == pytest.approx(0.4, abs=0.02)

    def test_by_text_they_do_not(self):
        noisy = noisy_pairs(FIVE, 0.4, seed=0).reshape(200, 5)
        assert (noisy != noisy[:, :1]).any()

    def test_a_higher_rate_moves_what_a_lower_one_does(self):
        low, high = (noisy_pairs(FIVE, rate, 0, "image") != FIVE for rate in (0.2, 0.6))
        assert high[low].mean() > 0.9  # a few get their own back by chance

    def test_the_setting_chooses_the_unit(self):
        setting = {"pair_noise": 0.5, "pair_noise_unit": "image", "seed": 0}
        pairs = _training_pairs(features(), setting)[1].reshape(-1, 2)
        assert (pairs[:, 0] == pairs[:, 1]).all()
        assert (pairs[:, 0] != np.arange(50)).any()

    def test_a_unit_without_noise_changes_nothing(self):
        assert Setting(pair_noise_unit="image").changes == {}
        assert Setting(pair_noise=0.2, pair_noise_unit="image").changes == {
            "pair_noise": 0.2, "pair_noise_unit": "image", "seed": 0
        }  # fmt: skip


class TestRounds:
    def test_are_of_so_many_images_and_the_last_takes_the_rest(self):
        pairs = np.repeat(np.arange(23), 2)
        assert [len(r) for r in rounds(pairs, 5, seed=0)] == [10, 10, 10, 16]
        assert [len(r) for r in rounds(pairs, 50, seed=0)] == [46]

    def test_bring_every_pair_once_and_the_texts_of_an_image_together(self):
        arriving = rounds(FIVE, 30, seed=1)
        np.testing.assert_array_equal(np.sort(np.concatenate(arriving)), np.arange(1000))
        assert sum(len(np.unique(FIVE[r])) for r in arriving) == 200

    def test_come_in_an_order_that_the_seed_draws(self):
        first, same, other = (rounds(FIVE, 30, seed)[0] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, same)
        assert set(first) != set(other)
        assert np.ptp(FIVE[first]) > 100  # from all over the training set

    def test_reach_the_method_one_by_one_and_its_codes_return_in_the_old_order(self):
        method = trained({"chunk": 20, "seed": 0})
        assert [len(part) for part in method.seen] == [40, 60]
        np.testing.assert_array_equal(method.image_codes_[:, 0], np.repeat(np.arange(50), 2))
        np.testing.assert_array_equal(method.text_codes_, method.image_codes_)
        for part in method.seen:
            np.testing.assert_array_equal(part.labels.argmax(1), part.image[:, 0] % 4)

    def test_are_centred_by_the_first_round_as_the_later_ones_are_not_known_then(self):
        method = trained({"chunk": 20, "seed": 0}, ["center"])
        assert method.seen[0].image.mean() == pytest.approx(0)
        assert abs(method.seen[1].image.mean()) > 0.1

    def test_enter_the_train_step_of_a_method_that_can_take_them(self):
        runs = [resolve("lemon", "digits", seeds=[0], overrides={"setting.chunk": n})[0] for n in (0, 100, 200)]
        keys = [{s.name: s.key for s in plan_run(run).ancestry()} for run in runs]
        assert len({k["train"] for k in keys}) == 3
        assert len({k["features"] for k in keys}) == 1

    @pytest.mark.parametrize("key", ["batch", "dscmr"])
    def test_are_refused_by_a_method_that_learns_from_all_at_once(self, key):
        run = resolve(key, "digits", seeds=[0], overrides={"setting.chunk": 100})[0]
        with pytest.raises(UsageError, match=r"rounds.*lemon"):
            plan_run(run)


def test_pairs_are_taken_with_or_without_labels():
    x = np.arange(6.0).reshape(3, 2)
    assert Pairs(x, x).take(np.array([2, 0])).labels is None
    np.testing.assert_array_equal(Pairs(x, x, x).take(np.array([2, 0])).labels, x[[2, 0]])


def test_mrl_on_wikipedia_sweeps_over_noise_rates_and_the_card_keeps_them_apart():
    from cmrkit.api import summarise
    from cmrkit.reporting.card import _metrics

    runs = resolve("mrl", "wikipedia")
    rates = [run.setting.label_noise for run in runs]
    assert sorted(set(rates)) == [0.2, 0.4, 0.6, 0.8]
    assert len(runs) == 12
    documents = [
        {"params": run.params, "setting": run.setting.changes, "metrics": {"map@all": {"i2t": rate, "t2i": rate}}}
        for run, rate in zip(runs, rates, strict=True)
    ]
    assert {row["setting"]["label_noise"]: pytest.approx(row["mean"]) for row in summarise(documents)} == {
        rate: rate for rate in rates
    }
    table = _metrics(documents)
    assert table.row_count == 4
    assert list(table.columns[0].cells) == [f"dim=128 label_noise={r}" for r in (0.2, 0.4, 0.6, 0.8)]
