from __future__ import annotations

import pytest
import torch

from segrefine.reference.hausdorff import EMPTY, pixel_hausdorff


def test_smallest_distance_to_each_side() -> None:
    torch.manual_seed(0)
    fa, fb, w = torch.randn(2, 7, 5), torch.randn(2, 11, 5), torch.rand(2, 11)
    found = pixel_hausdorff(fa, fb, w)
    for i in range(2):
        for n in range(7):
            distances = (fa[i, n] - fb[i]).double().square().sum(1).sqrt()
            expected = torch.stack([distances[w[i] > 0.5].min(), distances[w[i] <= 0.5].min()])
            torch.testing.assert_close(found[i, n].double(), expected, rtol=1e-6, atol=0)


def test_half_is_background() -> None:
    fa, fb = torch.zeros(1, 1, 2), torch.tensor([[[3.0, 4.0], [6.0, 8.0]]])
    assert pixel_hausdorff(fa, fb, torch.tensor([[0.5, 0.6]])).tolist() == [[[10.0, 5.0]]]


@pytest.mark.parametrize(("w", "expected"), [(1.0, [0.0, EMPTY]), (0.0, [EMPTY, 0.0])])
def test_empty_set_is_as_far_as_half_precision_goes(w: float, expected: list[float]) -> None:
    f = torch.randn(1, 4, 3)
    assert pixel_hausdorff(f, f, torch.full((1, 4), w))[0].tolist() == [expected] * 4


def test_half_precision_descriptors_are_compared_in_single() -> None:
    fa = torch.full((1, 1, 64), 200.0, dtype=torch.float16)  # the squared distance is beyond float16
    assert pixel_hausdorff(fa, -fa, torch.ones(1, 1))[0, 0, 0].item() == 3200
