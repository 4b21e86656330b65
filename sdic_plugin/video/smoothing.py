"""Smoothing over time without delay: what comes after a frame counts as much as what came before.

A polynomial is fitted to the values about each time, weighted by a Gaussian of their distance in time (local
regression; Cleveland, 1979), and its value there is taken. Of degree 2 it follows a head that turns or bobs, where a
plain mean, of degree 0, cuts its corners. Times need not be evenly spaced.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import ArrayLike

REACH = 2.5
"""Deviations of the Gaussian beyond which nothing counts, which bounds how far ahead must be known."""


def reach_of(deviation: float) -> float:
    """How many seconds before and after a time count."""
    return REACH * deviation


def weights_at(times: np.ndarray, at: float, deviation: float, degree: int) -> np.ndarray:
    """Weights [N] of values at some times, of sum 1, that give the smoothed value at one of them.

    Args:
        times: [N], in seconds; those out of reach get weight 0.
        at: A time.
        deviation: Of the Gaussian, in seconds; 0 takes the value itself.
        degree: Of the polynomial; where too few values are in reach, the highest that they determine.
    """
    distance = times - at
    if deviation <= 0:
        nearest = np.zeros(len(times))
        nearest[np.abs(distance).argmin()] = 1
        return nearest
    scaled = distance / deviation
    weights = np.where(np.abs(scaled) <= REACH + 1e-9, np.exp(-0.5 * np.minimum(scaled**2, 99)), 0.0)
    terms = min(degree + 1, int(np.count_nonzero(weights)))
    powers = scaled[:, None] ** np.arange(terms)
    moments = powers.T @ (weights[:, None] * powers)
    return weights * (powers @ np.linalg.solve(moments, np.eye(len(moments))[0]))


def smooth(times: np.ndarray, values: np.ndarray, deviation: float, degree: int = 2) -> np.ndarray:
    """Smooth values [N, D] at increasing times [N], in seconds; see `weights_at`. Returns [N, D]."""
    if deviation <= 0:
        return values.copy()
    reach, smoothed = reach_of(deviation) + 1e-9, np.empty_like(values)
    for i, at in enumerate(times):
        window = slice(*np.searchsorted(times, [at - reach, at + reach], side="left"))
        smoothed[i] = weights_at(times[window], at, deviation, degree) @ values[window]
    return smoothed


def fill_gaps(times: np.ndarray, values: np.ndarray, longest: float) -> np.ndarray:
    """Fill gaps, rows of NaN, between values [N, D] on a straight line, if they last no longer than `longest` seconds.

    What has no value on both sides stays as it is.
    """
    filled, known = values.copy(), np.flatnonzero(~np.isnan(values).any(axis=1))
    for before, after in itertools.pairwise(known):
        if after - before > 1 and times[after] - times[before] <= longest + 1e-9:
            share = (times[before + 1 : after] - times[before]) / (times[after] - times[before])
            filled[before + 1 : after] = values[before] + share[:, None] * (values[after] - values[before])
    return filled


def ramp(share: ArrayLike) -> np.ndarray:
    """Rise from 0 to 1 without a corner; 0 below 0, and 1 above 1."""
    share = np.clip(share, 0.0, 1.0)
    return share * share * (3 - 2 * share)
