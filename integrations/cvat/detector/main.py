"""CVAT's detector: the labels of the function in, a mask for each that is found out."""

import os

from segrefine.integrations.cvat import Detector, answer
from segrefine.integrations.masks import Bundles, MaskMaker


def init_context(context):
    """Open the model, once for each worker."""
    maker = MaskMaker(Bundles.of(os.environ.get("SEGREFINE_BUNDLE", "photo-gs")))
    labels = tuple(label.strip() for label in os.environ["SEGREFINE_LABELS"].split(","))
    context.user_data.function = Detector(maker=maker, labels=labels)


def handler(context, event):
    """Answer a request."""
    return answer(context, context.user_data.function, event.body)
