import numpy as np
import pytest
import scipy.stats

from tumorboard.base.randomness import keys_of, uniforms
from tumorboard.evaluation import bootstrap
from tumorboard.evaluation.bootstrap import FIRST_COUNTER, resample_means

KEYS = keys_of([f"p{k}" for k in range(20)])


def test_resamples_are_scored_as_their_images_would_be():
    generator = np.random.default_rng(0)
    totals, images = generator.random(20) * 5, generator.integers(1, 9, 20).astype(float)
    means = resample_means(totals, images, KEYS, resamples=30, seed=7)
    drawn = (uniforms(7, KEYS, FIRST_COUNTER, 30) * 20).astype(int)
    for resample in (0, 29):
        taken = drawn[:, resample]
        assert means.values[resample] == pytest.approx(totals[taken].sum() / images[taken].sum())
        residuals = totals[taken] - means.values[resample] * images[taken]
        held = images[taken] / images[taken].sum()
        expected = np.sqrt((residuals**2 / (1 - held)).sum()) / images[taken].sum()
        assert means.errors[resample] == pytest.approx(expected)


def test_the_means_spread_as_scipys_bootstrap():
    values = np.random.default_rng(1).exponential(size=20)
    means = resample_means(values, np.ones(20), KEYS, resamples=5000, seed=0)
    expected = scipy.stats.bootstrap((values,), np.mean, n_resamples=5000, random_state=0).standard_error
    assert means.values.std() == pytest.approx(expected, rel=0.05)
    assert means.values.mean() == pytest.approx(values.mean(), abs=0.02)


def test_each_chunk_of_resamples_has_its_own_draws(monkeypatch):
    monkeypatch.setattr(bootstrap, "CHUNK_CELLS", 20 * 8)
    means = resample_means(np.arange(20.0), np.ones(20), KEYS, resamples=27, seed=0)
    assert len(means.values) == 27
    chunks = [tuple(means.values[first : first + 3]) for first in (0, 8, 16, 24)]
    assert len(set(chunks)) == 4


def test_no_resample_repeats_the_numbers_that_split_the_data():
    """`data.split` orders the groups by the first numbers of small counters."""
    drawn = uniforms(0, KEYS, FIRST_COUNTER, 50)
    for counter in range(200):
        split = uniforms(0, KEYS, counter, 1)
        assert not (drawn == split).all(0).any()


def test_draws_depend_on_the_seed_and_the_keys():
    means = resample_means(np.arange(20.0), np.ones(20), KEYS, resamples=5, seed=0)
    assert (means.values != resample_means(np.arange(20.0), np.ones(20), KEYS, resamples=5, seed=1).values).any()
    others = keys_of([f"q{k}" for k in range(20)])
    assert (means.values != resample_means(np.arange(20.0), np.ones(20), others, resamples=5, seed=0).values).any()
