import numpy as np
from scipy import stats

from tumorboard.base.randomness import keys_of, order, uniforms

IDS = [f"image {i}.png" for i in range(4000)]


def test_splitmix64_as_published() -> None:
    """The first outputs of the reference implementation for the state 0: the mixing function of this module."""
    from tumorboard.base.randomness import _STEP, _mix

    with np.errstate(over="ignore"):
        states = np.arange(1, 4, dtype=np.uint64) * _STEP
        mixed = _mix(states)
    assert [hex(int(value)) for value in mixed] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f"]


def test_a_row_does_not_depend_on_the_others() -> None:
    keys = keys_of(IDS)
    together = uniforms(3, keys, 5, 4)
    assert (uniforms(3, keys[17:18], 5, 4) == together[17]).all()
    assert (uniforms(3, keys[::-1], 5, 4) == together[::-1]).all()
    counters = np.arange(len(IDS))
    assert (uniforms(3, keys, counters, 4)[5] == together[5]).all()


def test_seed_counter_and_column_give_unrelated_uniform_numbers() -> None:
    keys = keys_of(IDS)
    base = uniforms(0, keys, 0, 2)
    assert stats.kstest(base[:, 0], "uniform").pvalue > 1e-3
    for other in (base[:, 1], uniforms(1, keys, 0, 1)[:, 0], uniforms(0, keys, 1, 1)[:, 0]):
        assert stats.kstest(other, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(base[:, 0], other)[0, 1]) < 0.06


def test_neighboring_seeds_and_counters_do_not_repeat_each_other() -> None:
    keys = keys_of(IDS[:50])
    draws = np.concatenate([uniforms(seed, keys, counter, 3).ravel() for seed in range(5) for counter in range(5)])
    assert len(np.unique(draws)) == draws.size


def test_an_order_is_a_permutation_that_follows_the_ids_not_the_rows() -> None:
    keys = keys_of(IDS)
    shuffled = np.random.default_rng(0).permutation(len(IDS))
    first, second = order(0, keys, 3), order(0, keys[shuffled], 3)
    assert sorted(first) == list(range(len(IDS)))
    assert (keys[first] == keys[shuffled][second]).all()
    assert (first != order(0, keys, 4)).any()
