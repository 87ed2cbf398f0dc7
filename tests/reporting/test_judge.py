"""Verdicts, and the explanations of a miss."""

import pytest

from cmrkit.recipe.model import Claim, EvalChoice
from cmrkit.reporting.judge import Result, judge, overall, rounding, verdict_of

CHOICE = EvalChoice(protocol="hamming-map", database="learned")


def claim(value, metric="map@all", std=None, **at):
    return Claim(dataset="wikipedia", metric=metric, at={"direction": "i2t", **at}, value=value, std=std,
                 source="Table 1", kind="paper")  # fmt: skip


def result(i2t, t2i=0.9, variants=None, **params):
    return Result({"bits": 16, "seed": 0, **params}, {"map@all": {"i2t": i2t, "t2i": t2i}, "queries": 693},
                  variants or {})  # fmt: skip


def one(claim, *results):
    (row,) = judge([claim], list(results), CHOICE)
    return row


def test_rounding_is_half_a_unit_of_the_last_decimal():
    assert rounding(0.36) == pytest.approx(0.005)
    assert rounding(0.3591) == pytest.approx(0.00005)


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.004, "match"), (-0.004, "match"), (0.015, "near"), (-0.03, "below"), (0.03, "above")]
)
def test_verdicts(difference, verdict):
    assert verdict_of(difference, 0.005) == verdict


def test_two_standard_deviations_of_either_side_match():
    assert one(claim(0.36, std=0.01), result(0.3799))["verdict"] == "match"
    spread = [result(0.36), result(0.40)]
    row = one(claim(0.3999), *spread)
    assert (row["n"], row["verdict"]) == (2, "match")
    assert row["obtained"] == pytest.approx(0.38)


def test_only_results_at_the_claimed_setting_answer():
    assert judge([claim(0.36, bits=32)], [result(0.36)], CHOICE) == []
    assert overall([]) == "unclaimed"


def test_a_claim_about_a_variant_is_held_against_that_variant():
    variants = {"database=hashed,items=database,ties=expected": {"map@all": {"i2t": 0.25, "t2i": 0.3}}}
    assert one(claim(0.25, database="hashed"), result(0.36, variants=variants))["verdict"] == "match"


def test_a_miss_is_explained_where_another_reading_closes_it():
    variants = {"database=hashed,items=database,ties=expected": {"map@all": {"i2t": 0.25, "t2i": 0.3}}}
    assert "database=hashed" in one(claim(0.25), result(0.36, variants=variants))["cause"]
    assert "swapped" in one(claim(0.9), result(0.36))["cause"]
    assert "ten queries" in one(claim(0.3549), result(0.36))["cause"]
    assert one(claim(0.7), result(0.36))["cause"] is None
