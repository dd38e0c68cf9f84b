import math
import sys
from math import comb

import numpy as np
import pytest

from sdtt.evaluation.mauve import mauve

pytest.importorskip("mauve", reason='needs pip install "sdtt[evaluation]"')


def cloud(count, seed=0, centre=0.0):
    """Features around one point of the sphere to which MAUVE scales them."""
    draws = np.random.default_rng(seed).normal(size=(count, 4)) * 0.1
    draws[:, 0] += math.cos(centre)
    draws[:, 1] += math.sin(centre)
    return draws


def test_texts_are_as_good_as_themselves():
    texts = cloud(60)
    assert mauve(texts, texts, seeds=[0]).mauve == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_texts_that_share_no_cluster_have_the_least_value_that_there_is(scale):
    # the curve is ((1 - w)^c, w^c): the area under it is c B(c, c + 1)
    found = mauve(cloud(60), cloud(60, 1, math.pi), seeds=[0], buckets=2, scale=scale)
    assert found.mauve == pytest.approx(1 / comb(2 * int(scale), int(scale)), rel=0.03)


def test_the_value_falls_with_the_share_of_texts_that_people_would_not_write():
    people = cloud(60)
    values = [
        mauve(people, np.vstack([cloud(60 - far, 1), cloud(far, 2, 2.0)]), seeds=[0]).mauve
        for far in (0, 15, 45)
    ]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 3


def test_the_mean_and_its_error_are_over_the_seeds_of_k_means():
    found = mauve(cloud(60), cloud(60, 1, 0.1), seeds=[0, 1, 2])
    assert len(set(found.by_seed)) > 1
    assert found.mauve == pytest.approx(sum(found.by_seed) / 3)
    assert found.mauve_se == pytest.approx(np.std(found.by_seed, ddof=1) / math.sqrt(3))


def test_each_seed_is_told_of_once():
    told = []
    mauve(cloud(60), cloud(60, 1), seeds=[3, 4], advance=told.append)
    assert told == [1, 1]


def test_a_seed_gives_its_value_again():
    people, texts = cloud(60), cloud(60, 1, 0.1)
    again = mauve(people, texts, seeds=[0, 1])
    assert again.by_seed == mauve(people, texts, seeds=[0, 1]).by_seed


@pytest.mark.parametrize(("counts", "buckets"), [((60, 300), 6), ((12, 9), 2)])
def test_there_is_a_bucket_for_ten_of_the_fewer_texts_and_two_at_least(counts, buckets):
    people, texts = (cloud(count, count) for count in counts)
    assert mauve(people, texts, seeds=[0]).buckets == buckets


def test_nothing_is_printed_and_stderr_comes_back(capfd):
    mauve(cloud(40), cloud(40, 1), seeds=[0], buckets=4)
    print("after", file=sys.stderr)
    assert capfd.readouterr() == ("", "after\n")


def test_fewer_texts_than_buckets_are_refused():
    with pytest.raises(ValueError, match="MAUVE of 7 generated texts cannot fill 8 buckets"):
        mauve(cloud(60), cloud(7), buckets=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": []}, "needs a seed"),
        ({"scale": 0.0}, r"scale must be above 0, got 0\.0"),
        ({"buckets": 1}, "buckets must be at least 2, got 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mauve(cloud(60), cloud(60), **options)


def test_features_of_two_models_are_refused():
    with pytest.raises(ValueError, match="have 4 numbers, of generated texts 3"):
        mauve(cloud(60), cloud(60)[:, :3])


def test_a_feature_that_is_no_number_is_named_by_its_text():
    broken = cloud(60)
    broken[17, 2] = math.nan
    with pytest.raises(ValueError, match="text 17 of the generated texts"):
        mauve(cloud(60), broken)
