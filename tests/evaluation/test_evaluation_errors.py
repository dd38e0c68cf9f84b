import math

import pytest

from sdtt.evaluation.diversity import standard_error
from sdtt.evaluation.errors import covariance_of_means, ratio_error


def test_over_wholes_of_one_size_a_ratio_has_the_error_of_a_mean():
    shares = [0.2, 0.5, 0.3, 0.9]
    expected = standard_error(shares)
    assert ratio_error([10 * share for share in shares], [10] * 4) == pytest.approx(expected)


def test_the_error_of_a_ratio_weighs_texts_by_their_size():
    # r = 6 / 12: residuals 3 - 1 and 3 - 5, so sqrt(2 / 1 * (4 + 4)) / 12
    assert ratio_error([3, 3], [2, 10]) == pytest.approx(4 / 12)


def test_the_error_of_a_ratio_of_one_text_is_not_a_number():
    assert math.isnan(ratio_error([1], [2]))


def test_the_covariance_of_a_mean_with_itself_is_its_error_squared():
    values = [1.0, 4.0, 2.0, 7.0]
    assert covariance_of_means(values, values) == pytest.approx(standard_error(values) ** 2)


def test_the_covariance_of_means_is_that_of_the_texts_over_their_number():
    # deviations -1, 0, 1 and -2, 2, 0: their product sums to 2, over 2, over 3 texts
    assert covariance_of_means([0, 1, 2], [1, 5, 3]) == pytest.approx(2 / 2 / 3)
