"""A PGM's values are those of the file; expected levels by hand."""

import numpy as np
import pytest

from tests.images.samples import decode_rgb, header_of

VALUES = np.array([[0, 100, 1000, 4095]], ">u2")


@pytest.mark.parametrize("largest", [4095, 5000, 65535])
def test_a_window_is_in_the_values_of_the_file(largest: int) -> None:
    content = b"P5 4 1 %d\n" % largest + VALUES.tobytes()
    # 100 / 1000 * 255 = 25.5, to the even one
    assert decode_rgb(content, window=(0, 1000))[0, :, 0].tolist() == [0, 26, 255, 255]


def test_the_depth_is_that_of_the_values() -> None:
    grey = header_of(b"P2 4 1 4095\n0 100 1000 4095\n").grey
    assert grey is not None
    assert grey[:3] == ("depth", 0, 4095)
