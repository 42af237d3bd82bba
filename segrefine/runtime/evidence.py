"""What speaks for a pixel before any image is generated: the coarse mask and the text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segrefine.runtime.affinity import spread
from segrefine.runtime.edges import logit
from segrefine.runtime.filters import Floats
from segrefine.settings import G4SegSettings


def gather_evidence(image: NDArray[np.uint8], coarse: Floats, text: Floats, settings: G4SegSettings) -> Floats:
    """Log-odds of foreground, float32 (h, w).

    The text's evidence is evened out along regions of like colour and measured against the mask's own: a label that a
    model knows badly gives little evidence everywhere.

    Args:
        image: uint8 (H, W, 3) RGB, on the model's pixel grid.
        coarse: float32 (h, w) coarse mask as a probability in [0, 1], on the latent grid.
        text: float32 (h, w) evidence of the text, see `Denoiser.text_evidence`.
        settings: weights.
    """
    s = settings
    even = spread(image, text, smoothness=s.text_spread, contrast=s.text_contrast)
    inside = coarse >= min(0.5, float(coarse.max()))
    threshold = s.text_threshold * float(np.quantile(even[inside], 0.9))
    return np.asarray(s.prior_weight * logit(coarse) + s.text_weight * (even - threshold) + s.bias, np.float32)
