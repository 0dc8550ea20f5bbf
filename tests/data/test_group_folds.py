import numpy as np
import pytest
from sklearn.model_selection import StratifiedGroupKFold

from tumorboard.data.group_folds import StratifiedGroups


@pytest.mark.parametrize("classes", [2, 3, 17])
@pytest.mark.parametrize("images_per_group", [1, 3])
@pytest.mark.parametrize("folds", [2, 5])
def test_the_folds_are_those_of_scikit_learn(classes: int, images_per_group: int, folds: int) -> None:
    rng = np.random.default_rng(classes)
    labels = np.concatenate([np.repeat(np.arange(classes), folds), rng.integers(0, classes, 200) ** 2 // classes])
    groups = rng.permutation(len(labels)) // images_per_group
    for seed in range(3):
        expected = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        drawn = StratifiedGroups(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for own, theirs in zip(drawn, expected, strict=True):
            assert [rows.tolist() for rows in own] == [rows.tolist() for rows in theirs]
