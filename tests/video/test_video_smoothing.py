"""Smoothing over time: no delay, no corners cut, gaps filled up to a length, the same whatever the batches are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from sdic_plugin.images.alignment import Alignment
from sdic_plugin.video.cuts import CutFinder
from sdic_plugin.video.effects import smooth_stream
from sdic_plugin.video.smoothing import REACH, fill_gaps, smooth, weights_at
from sdic_plugin.video.track import FADE, Run, Track, to_alignment, to_place

rng = np.random.default_rng(0)
TIMES = np.cumsum(rng.uniform(0.01, 0.08, 80))


def test_parabolas_stay_as_they_are_at_the_ends_too():
    values = np.stack([3 + TIMES, 2 - TIMES + 5 * TIMES**2], axis=1)
    assert np.allclose(smooth(TIMES, values, 0.15), values, atol=1e-9)
    assert np.array_equal(smooth(TIMES, values, 0.0), values)


def test_noise_becomes_less():
    noise = rng.normal(0, 1, (2000, 1))
    smoothed = smooth(np.arange(2000) / 25, noise, 0.1)
    assert smoothed.std() < 0.6
    assert abs((smoothed[1:-1] * (noise[2:] - noise[:-2])).mean()) < 0.03  # no delay either way


def test_few_values_are_no_problem():
    for count in (1, 2, 3):
        values = rng.normal(size=(count, 4))
        assert np.allclose(smooth(np.arange(count) * 10.0, values, 0.1), values)  # out of each other's reach
    assert weights_at(np.array([0.0, 0.04]), 0.0, 0.1, 2).sum() == pytest.approx(1)


def test_gaps_are_filled_up_to_a_length():
    times, values = np.arange(12) / 10, np.arange(12.0)[:, None] ** 2
    values[[0, 3, 4, 6, 7, 8, 11]] = np.nan
    filled = fill_gaps(times, values, 0.3)[:, 0]
    assert np.allclose(filled[2:6], [4, 4 + 7, 4 + 14, 25])
    assert np.isnan(filled[[0, 6, 7, 8, 11]]).all() and filled[9] == 81


@pytest.mark.parametrize("deviation", [0.0, 0.03, 0.2])
def test_a_stream_is_the_same_whatever_its_batches_are(deviation):
    values = rng.normal(size=(80, 3, 2)).astype(np.float32)

    def run(size: int) -> np.ndarray:
        batches = [(TIMES[i : i + size], values[i : i + size], i) for i in range(0, 80, size)]
        found = list(smooth_stream(iter(batches), deviation))
        assert [payload for _, payload in found] == list(range(0, 80, size))
        return np.concatenate([each for each, _ in found])

    whole = run(80)
    assert all(np.array_equal(run(size), whole) for size in (1, 3, 8))
    if deviation:
        assert np.allclose(whole.reshape(80, -1), smooth(TIMES, values.reshape(80, -1), deviation, 0), atol=1e-5)


def test_a_stream_waits_no_longer_than_it_must():
    taken = []

    def batches():
        for i in range(40):
            taken.append(i)
            yield np.array([i / 25]), np.zeros((1, 2), np.float32), i

    for _, payload in smooth_stream(batches(), 0.04):
        assert len(taken) <= payload + 2 + REACH * 0.04 * 25 + 1


# Tracks.


def make_track(places: np.ndarray, cuts: tuple[int, ...] = ()) -> Track:
    count = len(places)
    return Track(
        np.arange(count) * 4, np.full(count, 4), np.isin(np.arange(count), cuts), places, (64, 64), (200, 100)
    )


def test_places_are_alignments():
    alignment = Alignment(((0.3, -0.4, 7.0), (0.4, 0.3, -9.0)), (64, 48), (200, 100))
    back = to_alignment(np.array(to_place(alignment)), (64, 48), (200, 100))
    assert np.allclose(back.matrix, alignment.matrix) and back.photo_size == (200, 100)


def test_runs_end_where_the_subject_goes_and_at_cuts():
    places = np.zeros((12, 4))
    places[4:6] = np.nan
    assert make_track(places, (9,)).runs() == [Run(0, 4, True), Run(4, 6, False), Run(6, 9, True), Run(9, 12, True)]


def test_nothing_is_smoothed_or_filled_across_a_cut():
    places = np.zeros((20, 4))
    places[10:] = 50
    places[9] = np.nan
    steady = make_track(places, (10,)).steadied(Fraction(1, 100), 1.0, 0.2)
    assert np.isnan(steady.places[9]).all()
    assert np.allclose(steady.places[:9], 0) and np.allclose(steady.places[10:], 50)
    filled = make_track(places).steadied(Fraction(1, 100), 1.0, 0.2)
    assert filled.has_subject.all() and 1 < filled.places[8, 0] < 49


def test_angles_are_unwrapped():
    places = np.zeros((20, 4))
    places[:, 3] = np.where(np.arange(20) % 2, 3.1, -3.1)
    steady = make_track(places).steadied(Fraction(1, 100), 1.0, 0.2)
    assert np.allclose(np.cos(steady.places[:, 3]), -1, atol=0.01)


def test_an_edit_fades_where_the_subject_comes_but_not_at_cuts():
    places = np.zeros((40, 4))
    places[:10] = np.nan
    strengths = make_track(places, (25,)).strengths(Fraction(1, 100))
    assert (strengths[:10] == 0).all() and (strengths[20:] == 1).all()
    rising = strengths[9:15]
    assert (np.diff(rising) > 0).all() and FADE == 0.2


def test_a_track_is_kept_in_a_file(tmp_path):
    track = make_track(rng.normal(size=(9, 4)), (3,))
    track.save(tmp_path / "track.npz")
    back = Track.load(tmp_path / "track.npz")
    assert np.array_equal(back.places, track.places) and back.crop_size == (64, 64) and back.cuts[3]
    (tmp_path / "track.npz").write_bytes(b"PK")
    assert Track.load(tmp_path / "track.npz") is None and Track.load(tmp_path / "none.npz") is None


# Cuts.


def scene(seed: int, height: int = 90, width: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 1, (height // 10, width // 10))
    return np.kron(coarse, np.ones((10, 10))) * 200 + 20


def test_cuts_are_found_and_other_changes_are_not():
    first, second = scene(1), scene(2)
    panned = [np.roll(first, 2 * i, axis=1) for i in range(20)]
    flashed = [np.clip(first * 0.6 + 60 * (i == 5), 0, 255) for i in range(10)]
    faded = [first * (1 - i / 20) for i in range(18)]
    noisy = [first + np.random.default_rng(i).normal(0, 8, first.shape) for i in range(10)]
    for frames in (panned, flashed, faded, noisy):
        finder = CutFinder()
        assert not any(finder.is_cut(frame.clip(0, 255).astype(np.uint8)) for frame in frames)
    finder = CutFinder()
    shots = [*panned[:9], *[second] * 5, *panned[:2]]
    assert [i for i, frame in enumerate(shots) if finder.is_cut(frame.astype(np.uint8))] == [9, 14]
