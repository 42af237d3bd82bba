"""CVAT's interactor: points and a box in, a mask out."""

import os

from segrefine.integrations.cvat import OBJECT, Interactor, answer
from segrefine.integrations.masks import Bundles, MaskMaker


def init_context(context):
    """Open the model, once for each worker."""
    maker = MaskMaker(Bundles(refine=os.environ.get("SEGREFINE_BUNDLE", "photo")))
    label = os.environ.get("SEGREFINE_LABEL", OBJECT)
    context.user_data.function = Interactor(maker=maker, label=label, preset=os.environ.get("SEGREFINE_PRESET"))


def handler(context, event):
    """Answer a request."""
    return answer(context, context.user_data.function, event.body)
