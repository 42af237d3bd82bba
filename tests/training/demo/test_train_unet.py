import numpy as np
import pytest
import torch

from training.demo.augment import augment_scene
from training.demo.captions import NAMES, caption, draw_pair
from training.demo.train_unet import MARGIN, _margin_loss


def test_a_pair_names_an_object_that_is_there_and_a_class_that_is_not():
    rng = np.random.default_rng(0)
    for _ in range(200):
        classes = [int(c) for c in rng.permutation(len(NAMES))[:3]] + [-1]
        target, right, wrong = draw_pair(rng, classes)
        assert right == caption([NAMES[classes[target]]])
        assert wrong not in {caption([NAMES[c]]) for c in classes[:3]}


@pytest.mark.parametrize(("wrong", "expected"), [(1.0, MARGIN), (1 + MARGIN / 2, MARGIN / 2), (2.0, 0.0)])
def test_the_loss_is_what_the_wrong_caption_lacks(wrong, expected):
    region = torch.zeros(2, 8, 8)
    region[:, :2] = 1
    errors = torch.full((2, 4, 8, 8), 7.0)  # outside of the region errors do not count
    right, wrong = (errors * (1 - region[:, None]) + value * region[:, None] for value in (1.0, wrong))
    assert float(_margin_loss(right, wrong, region)) == pytest.approx(expected, abs=1e-5)


def test_an_object_that_cannot_be_seen_teaches_nothing():
    errors = [torch.rand(2, 4, 8, 8, requires_grad=True) for _ in range(2)]
    _margin_loss(errors[0], errors[1], torch.zeros(2, 8, 8)).backward()
    assert all(float(each.grad.abs().max()) == 0 for each in errors)


def test_augmented_scenes_keep_their_objects_where_the_picture_has_them():
    rng = np.random.default_rng(0)
    instances = np.zeros((64, 64), np.uint8)
    instances[20:44, 10:40] = 1
    image = np.where(instances[..., None] > 0, 250, 30).astype(np.uint8).repeat(3, 2)
    seen = set()
    for _ in range(20):
        bent, map_ = augment_scene(rng, image, instances)
        assert bent.shape == image.shape and map_.dtype == np.uint8
        inside, outside = bent[map_ == 1].mean(), bent[map_ == 0].mean()
        assert inside > 2 * outside
        assert 0.5 < (map_ == 1).sum() / (instances == 1).sum() < 2
        seen.add(map_.tobytes())
    assert len(seen) == 20
