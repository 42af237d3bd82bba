"""Eight ways to spoil a true mask, as a hurried annotator or a coarse model would.

Strengths are fractions of the object's size, the square root of its area in pixels, so that a kind means the same at
every image size. Six kinds spoil the outline; the two of ``SEMANTIC_KINDS`` take in another object as well, and only
the label tells which one was meant. An instance map holds 0 for background and k for the visible pixels of object k;
objects that share the target's class must not be in it, or the label would name them too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
from cv2.typing import MatLike
from numpy.random import Generator
from numpy.typing import NDArray

from segrefine.evaluation.bench.baselines import disc

Instances = NDArray[np.uint8]
Corruption = Callable[[Instances, int, Generator], MatLike | None]

LEAST_LEFT = 0.2  # share of the object that every kind leaves in the mask


def corrupt(kind: str, instances: Instances, target: int, rng: Generator) -> NDArray[np.float32] | None:
    """A spoiled mask of one object, or None when the kind does not apply to it.

    Args:
        kind: A key of ``CORRUPTIONS``.
        instances: Instance map (H, W); 0 is background, k the visible pixels of object k.
        target: The object to mask.
        rng: The only source of randomness.

    Returns:
        Coarse mask (H, W) in [0, 1] with at least one pixel above 0.5; None for ``spill`` without a touching object,
        ``two`` without a separate one, and for objects of so few pixels that nothing would be left.

    Raises:
        ValueError: The kind is unknown, or the target has no pixel.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"expected a kind of corruption out of {', '.join(CORRUPTIONS)}; got {kind!r}")
    if not (instances == target).any():
        raise ValueError(f"object {target} has no pixel in the instance map; choose one of {np.unique(instances)[1:]}")
    spoiled = CORRUPTIONS[kind](instances, target, rng)
    if spoiled is None or not (spoiled > 0.5).any():
        return None
    return spoiled.astype(np.float32)


def dilate(instances: Instances, target: int, rng: Generator) -> MatLike:
    """The mask grown on all sides."""
    mask, size = _object(instances, target)
    return cv2.dilate(mask, disc(rng.uniform(0.10, 0.25) * size))


def erode(instances: Instances, target: int, rng: Generator) -> MatLike | None:
    """The mask shrunk on all sides, by less where ``LEAST_LEFT`` asks for it."""
    mask, size = _object(instances, target)
    for radius in range(max(1, round(rng.uniform(0.06, 0.15) * size)), 0, -1):
        shrunk = cv2.erode(mask, disc(radius))
        if shrunk.sum() >= LEAST_LEFT * mask.sum():
            return shrunk
    return None


def shift(instances: Instances, target: int, rng: Generator) -> MatLike:
    """The mask moved, scaled and slightly turned about its centre."""
    mask, size = _object(instances, target)
    rows, columns = np.nonzero(mask)
    turn, scale = rng.normal(0, 0.2), rng.uniform(0.8, 1.25)
    heading, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.12, 0.25) * size
    turned = cv2.getRotationMatrix2D((columns.mean(), rows.mean()), math.degrees(turn), scale)
    step = distance * np.array([[0, 0, math.cos(heading)], [0, 0, math.sin(heading)]])
    moved = cv2.warpAffine(mask.astype(np.float32), turned + step, mask.shape[::-1])
    return (moved > 0.5).astype(np.uint8)


def ellipse(instances: Instances, target: int, rng: Generator) -> MatLike:
    """A filled ellipse, or a polygon of few corners, that roughly fits the object."""
    mask, size = _object(instances, target)
    drawn = np.zeros_like(mask)
    if rng.random() < 0.5:
        left, top, width, height = cv2.boundingRect(mask)
        x, y = (left + width / 2, top + height / 2) + rng.normal(0, 0.06, 2) * size
        radii = (np.array([width, height]) / 2 * rng.uniform(0.8, 1.15, 2)).round().astype(int)
        return cv2.ellipse(drawn, (round(x), round(y)), tuple(np.maximum(radii, 1).tolist()), 0, 0, 360, 1, -1)
    hull = cv2.convexHull(cv2.findNonZero(mask))
    corners = cv2.approxPolyDP(hull, 0.05 * cv2.arcLength(hull, True), True)
    moved = corners + rng.normal(0, 0.13, corners.shape) * size
    return cv2.fillPoly(drawn, [moved.round().astype(np.int32)], 1)


def blob8(instances: Instances, target: int, rng: Generator) -> NDArray[np.float32]:
    """A soft blob: the mask on a noisy 8x8 grid over a square 2.4 times the object, enlarged again."""
    mask, _ = _object(instances, target)
    left, top, width, height = cv2.boundingRect(mask)
    side = round(2.4 * max(width, height))
    x, y = np.round([left + width / 2, top + height / 2] + side * (0.5 + rng.uniform(-0.5, 0.5, 2) / 8)).astype(int)
    canvas = np.pad(mask, side).astype(np.float32)  # the square may reach beyond the image
    square = canvas[y : y + side, x : x + side]
    cells = cv2.resize(square, (8, 8), interpolation=cv2.INTER_AREA)
    cells = cv2.GaussianBlur(cells / cells.max(), (0, 0), 0.45) + rng.normal(0, 0.06, (8, 8))
    cells = np.clip(cells / cells.max(), 0, 1).astype(np.float32)
    square[:] = np.clip(cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)
    return canvas[side:-side, side:-side]


def chunks(instances: Instances, target: int, rng: Generator) -> MatLike:
    """The mask with one to three chunks missing and one spurious chunk."""
    mask, size = _object(instances, target)
    pixels = np.argwhere(mask)[:, ::-1]
    spoiled: MatLike = mask
    for _ in range(rng.integers(1, 4)):
        radii = tuple((rng.uniform(0.15, 0.35, 2) * size).astype(int).tolist())
        centre = rng.choice(pixels).tolist()
        cut = cv2.ellipse(spoiled.copy(), centre, radii, rng.uniform(0, 180), 0, 360, 0, -1)
        if cut.sum() >= LEAST_LEFT * mask.sum():
            spoiled = cut
    x, y = rng.choice(pixels) + rng.normal(0, 0.3, 2) * size
    return cv2.circle(spoiled.copy(), (round(x), round(y)), int(rng.uniform(0.1, 0.3) * size), 1, -1)


def spill(instances: Instances, target: int, rng: Generator) -> MatLike | None:
    """The mask run over half or more of a touching object, from the contact on, and mostly over all of it."""
    mask, size = _object(instances, target)
    other = _other(instances, target, rng, touching=True)
    if other is None:
        return None
    distance = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    reach = np.quantile(distance[other > 0], min(1.0, rng.uniform(0.5, 2.0)))
    return cv2.dilate(mask | (other & (distance <= reach)), disc(0.05 * size))


def two(instances: Instances, target: int, rng: Generator) -> MatLike | None:
    """One mask over two separate objects, slightly grown."""
    mask, size = _object(instances, target)
    other = _other(instances, target, rng, touching=False)
    return None if other is None else cv2.dilate(mask | other, disc(0.05 * size))


CORRUPTIONS: dict[str, Corruption] = {
    "dilate": dilate,
    "erode": erode,
    "shift": shift,
    "ellipse": ellipse,
    "blob8": blob8,
    "chunks": chunks,
    "spill": spill,
    "two": two,
}
SEMANTIC_KINDS = ("spill", "two")


def _object(instances: Instances, target: int) -> tuple[NDArray[np.uint8], float]:
    """An object's mask of zeros and ones and its size, the square root of its area."""
    mask = (instances == target).astype(np.uint8)
    return mask, math.sqrt(mask.sum())


def _other(instances: Instances, target: int, rng: Generator, *, touching: bool) -> NDArray[np.uint8] | None:
    """The mask of another object, one that touches the target or one that does not; None without any."""
    mask, size = _object(instances, target)
    near = set(np.unique(instances[cv2.dilate(mask, disc(0.04 * size)) > 0]).tolist())
    present = set(np.unique(instances).tolist())
    choices = sorted((near if touching else present - near) - {0, target})
    return _object(instances, int(rng.choice(choices)))[0] if choices else None
