"""One image that is refined many times: what does not depend on the mask is computed once."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict, cast, overload

import numpy as np
from numpy.typing import NDArray

from segrefine.engines import Closing
from segrefine.runtime.memory import Memory, remember
from segrefine.runtime.refinement import Refinement

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from segrefine.runtime.denoiser import Observe
    from segrefine.runtime.engine_set import Progress
    from segrefine.runtime.files.mask import CoarseMask, MaskLike
    from segrefine.runtime.pipeline import Masks, Refiner
    from segrefine.settings import Changes, G4SegSettings


class RefineOptions(TypedDict, total=False):
    """The options of `Refiner.__call__`."""

    crop: bool
    guard: bool
    settings: G4SegSettings | Changes | None
    seed: int
    progress: Progress | None
    observe: Observe | None


class Scene(Closing):
    """An image under a refiner, which must stay open; a context manager that forgets what it knows.

    The masks are those of `Refiner.__call__`, up to the rounding of batches of other sizes.

    Attributes:
        image: uint8 (H, W, 3) RGB.
        memory: what is known of the image.
    """

    def __init__(self, refiner: Refiner, image: NDArray[np.uint8], memory: Memory) -> None:
        self.image, self.memory = image, memory
        self._refiner = refiner.derive(remember(refiner.engines, memory))

    @overload
    def __call__(self, masks: MaskLike | CoarseMask, label: str, **options: Unpack[RefineOptions]) -> Refinement: ...

    @overload
    def __call__(
        self, masks: Masks, label: None = None, **options: Unpack[RefineOptions]
    ) -> tuple[Refinement, ...]: ...

    def __call__(
        self, masks: MaskLike | CoarseMask | Masks, label: str | None = None, **options: Unpack[RefineOptions]
    ) -> Refinement | tuple[Refinement, ...]:
        """Refine one mask, or the masks of several labels jointly.

        Arguments, result and errors are those of `Refiner.__call__`.
        """
        if label is None:
            return self._refiner(self.image, cast("Masks", masks), **options)
        return self._refiner(self.image, cast("MaskLike | CoarseMask", masks), label, **options)

    def close(self) -> None:
        """Forgets what is known. The engines stay open: they are the refiner's."""
        self.memory.clear()
