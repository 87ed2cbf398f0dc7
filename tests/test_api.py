"""The Python interface: what a document of runs says beyond the runs themselves."""

import pytest
from scipy import stats

from cmrkit.api import summarise


def test_numbers_are_summarised_over_seeds_within_one_setting():
    values = [0.5, 0.6, 0.55]
    documents = [
        {"params": {"bits": bits, "seed": seed}, "setting": {},
         "metrics": {"map@all": {"i2t": value + bits, "t2i": value}, "queries": 10, "pr_curve": {"i2t": {}}}}
        for bits in (16, 32) for seed, value in enumerate(values)
    ]  # fmt: skip
    rows = summarise(documents)
    assert [(r["setting"]["bits"], r["metric"], r["direction"]) for r in rows] == [
        (16, "map@all", "i2t"), (16, "map@all", "t2i"), (32, "map@all", "i2t"), (32, "map@all", "t2i")
    ]  # fmt: skip
    low, high = stats.t.interval(0.95, 2, loc=0.55, scale=0.05 / 3**0.5)
    assert rows[1]["mean"] == pytest.approx(0.55)
    assert (rows[1]["low"], rows[1]["high"]) == pytest.approx((low, high))
    assert rows[1]["n"] == 3


def test_runs_under_different_noise_are_not_averaged():
    documents = [
        {"params": {"seed": 0}, "setting": {"label_noise": rate, "seed": 0}, "metrics": {"rsum": rate}}
        for rate in (0.2, 0.4)
    ]
    assert [(r["setting"], r["mean"]) for r in summarise(documents)] == [
        ({"label_noise": 0.2}, 0.2), ({"label_noise": 0.4}, 0.4)
    ]  # fmt: skip
