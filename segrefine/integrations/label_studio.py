"""A machine learning backend for Label Studio: brushes, rectangles, points and phrases in, brushes out.

Start it with `python -m segrefine.integrations.label_studio`, and add its address to a project in Label Studio.
It works with the package `label-studio-ml` from PyPI (1.0.9), and with version 2 from its repository.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from segrefine import __version__
from segrefine.engines import EngineOptions
from segrefine.errors import ImageError, MissingDependencyError, SegrefineError
from segrefine.integrations.masks import Bundles, MaskMaker
from segrefine.integrations.regions import Labelling, Region, read_pairs, read_phrases, write_regions
from segrefine.runtime.files.image import load_image

try:
    from flask import has_request_context, request
    from label_studio_ml import api
    from label_studio_ml.model import LabelStudioMLBase, parse_config
except ImportError as error:
    message = f"the backend for Label Studio needs label-studio-ml, and {error.name} is not installed"
    raise MissingDependencyError(message, hint='pip install "segrefine[cpu,label-studio]"') from error

_LOGGER = logging.getLogger(__name__)
VERSION = f"segrefine-{__version__}"
PHRASE_KEYS = ("phrase", "phrases")
"""Places in the data of a task where it may say what to look for."""


def make_backend(maker: MaskMaker, *, preset: str | None = None) -> type[LabelStudioMLBase]:
    """The class that a server of label-studio-ml runs.

    Args:
        maker: makes the masks; it must stay open.
        preset: name of a preset of the settings.
    """

    class SegrefineBackend(LabelStudioMLBase):  # type: ignore[misc]  # the package has no types
        """Predictions of segrefine."""

        def setup(self) -> None:
            """Name the model's version, as version 2 of label-studio-ml asks."""
            self.set("model_version", VERSION)

        def predict(
            self, tasks: Sequence[Mapping[str, Any]], context: Mapping[str, Any] | None = None, **_: Any
        ) -> list[dict[str, Any]]:
            """Predict each task. With a context somebody is drawing, and is told what is wrong."""
            labelling = Labelling.of(self._parse_config())
            drawn = (context or {}).get("result") or ()
            if drawn:
                return [self._answer_at_once(task, drawn, labelling) for task in tasks]
            return [self._attempt(task, labelling) for task in tasks]

        def _answer_at_once(
            self, task: Mapping[str, Any], regions: Sequence[Region], labelling: Labelling
        ) -> dict[str, Any]:
            """Predict what somebody is drawing. Label Studio shows that it failed, and the log says why."""
            try:
                return self._predict(task, regions, labelling)
            except SegrefineError as error:
                _LOGGER.warning("%s", _describe(task, error))
                raise

        def _parse_config(self) -> Mapping[str, Any]:
            """The configuration of the request; version 1 of label-studio-ml keeps that of the first one."""
            sent = (request.get_json(silent=True) or {}) if has_request_context() else {}
            config = sent.get("label_config")
            parsed: Mapping[str, Any] = parse_config(config) if config else self.parsed_label_config
            return parsed

        def _attempt(self, task: Mapping[str, Any], labelling: Labelling) -> dict[str, Any]:
            """Predict a task of many: what is wrong with it harms no other."""
            try:
                return self._predict(task, _regions_of(task), labelling)
            except SegrefineError as error:
                told = _describe(task, error)
                _LOGGER.warning("%s", told)
                return {"result": [], "score": 0.0, "model_version": VERSION, "error": told}

        def _predict(self, task: Mapping[str, Any], regions: Sequence[Region], labelling: Labelling) -> dict[str, Any]:
            image = self._load(task, labelling)
            if pairs := read_pairs(regions, image):
                refined = maker.refine(image, pairs, preset=preset)
                result = write_regions(refined, [label for label, _ in pairs], labelling)
            else:
                phrases = read_phrases(regions) or _phrases_of(task) or list(labelling.labels)
                found = maker.find(image, phrases, preset=preset)
                result = write_regions(found, [_label_for(each, labelling) for each in phrases], labelling)
            scores = [each["score"] for each in result if each["score"] is not None]
            return {"result": result, "score": min(scores, default=0.0), "model_version": VERSION}

        def _load(self, task: Mapping[str, Any], labelling: Labelling) -> Any:
            url = (task.get("data") or {}).get(labelling.key)
            if not isinstance(url, str) or not url:
                message = f"the task has no image at {labelling.key!r} of its data"
                raise ImageError(message, hint="the labelling configuration names the place, as value='$image'")
            try:
                path = self.get_local_path(url)
                return load_image(Path(path))
            except SegrefineError as error:
                raise error.about(url) from error
            except Exception as error:  # the package fails in many ways: requests, files, storages
                hint = "set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY for files that were uploaded to Label Studio"
                raise ImageError(f"the image cannot be reached: {error}", subject=url, hint=hint) from error

    return SegrefineBackend


def make_app(maker: MaskMaker, *, preset: str | None = None, model_dir: str | None = None) -> Any:
    """The Flask application of label-studio-ml with this backend.

    Args:
        maker: makes the masks; it must stay open.
        preset: name of a preset of the settings.
        model_dir: folder in which version 1 of label-studio-ml keeps its files.
    """
    backend = make_backend(maker, preset=preset)
    if not hasattr(api, "LabelStudioMLManager"):
        return api.init_app(backend)
    os.environ.setdefault("LABEL_STUDIO_ML_BACKEND_V2", "")  # version 1 then opens the model without /setup, too
    return api.init_app(backend, model_dir=model_dir)


def _describe(task: Mapping[str, Any], error: SegrefineError) -> str:
    """Describe the fault of a task, in a sentence."""
    return f"task {task.get('id')}: {error}" + (f"; {error.hint}" if error.hint else "")


def _regions_of(task: Mapping[str, Any]) -> Sequence[Region]:
    """The regions of a task's last annotation, of drafts, or of nothing."""
    for name in ("annotations", "drafts"):
        if made := task.get(name):
            return made[-1].get("result") or ()
    return ()


def _phrases_of(task: Mapping[str, Any]) -> list[str]:
    data = task.get("data") or {}
    given: Any = next((data[key] for key in PHRASE_KEYS if data.get(key)), ())
    return [given] if isinstance(given, str) else [str(each) for each in given]


def _label_for(phrase: str, labelling: Labelling) -> str:
    """The label of a phrase: the one that it names, or else the first."""
    words = phrase.casefold()
    named = [label for label in labelling.labels if label.casefold() in words]
    return max(named, key=len) if named else next(iter(labelling.labels), phrase)


@click.command(context_settings={"auto_envvar_prefix": "SEGREFINE_LABEL_STUDIO", "help_option_names": ["-h", "--help"]})
@click.option("--bundle", metavar="FOLDER|HUB-ID", default="photo", show_default=True, help="Model that refines.")
@click.option("--segment-bundle", metavar="FOLDER|HUB-ID", help="Model that finds phrases.  [default: --bundle]")
@click.option("--preset", metavar="NAME", help="Preset of the settings: default, fast or paper.")
@click.option("--backend", metavar="NAME", default="auto", show_default=True, help="Backend that runs the graphs.")
@click.option("--device", metavar="DEVICE", default="cpu", show_default=True, help="Device: cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: all cores]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(1, 65535), default=9090, show_default=True, help="Port to listen at.")
@click.option("--model-dir", metavar="DIR", default=".", show_default=True, help="Folder for files of label-studio-ml.")
def main(
    bundle: str, segment_bundle: str | None, preset: str | None, backend: str, device: str, threads: int | None,
    host: str, port: int, model_dir: str,
) -> None:  # fmt: skip
    """Serve predictions to Label Studio."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(name)s: %(message)s")
    engines = EngineOptions(backend=backend, device=device, threads=threads)
    with MaskMaker(Bundles(refine=bundle, segment=segment_bundle, engines=engines)) as maker:
        make_app(maker, preset=preset, model_dir=model_dir).run(host=host, port=port, threaded=True)


if __name__ == "__main__":
    main()
