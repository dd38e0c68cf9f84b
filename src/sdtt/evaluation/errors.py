"""Errors of what is a mean over texts, beside `diversity.standard_error`."""

from collections.abc import Sequence

import numpy as np


def ratio_error(parts: Sequence[float], wholes: Sequence[float]) -> float:
    """The standard error of r = sum k / sum n over texts, by linearisation.

    sqrt(m / (m - 1) * sum (k_i - r n_i)^2) / sum n, over m texts; with equal n_i it is the standard
    error of the mean of k_i / n_i.

    Args:
        parts: k_i of each text.
        wholes: n_i of each text.

    Returns:
        In the unit of r; nan for fewer than two texts.
    """
    k, n = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    if len(k) < 2:
        return float("nan")
    residuals = k - k.sum() / n.sum() * n
    return float(np.sqrt(len(k) / (len(k) - 1) * (residuals**2).sum()) / n.sum())


def covariance_of_means(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the means of x and y over the same texts: their covariance over texts, divided by m.

    Such as of a text's NLL and its entropy: see `frontier.Point`.

    Returns:
        In the product of their units; nan for fewer than two texts.
    """
    if len(x) < 2:
        return float("nan")
    return float(np.cov(x, y, ddof=1)[0, 1] / len(x))
