from __future__ import annotations

import pytest
import torch

from segrefine.train.memory import _Counter, count_activations
from segrefine.train.options import TrainOptions
from segrefine.train.run import TrainingJob, open_run
from segrefine.train.sources import SourceSpec
from tests.train.data import write_label_maps


@pytest.mark.parametrize("options", [{}, {"train_image": True}, {"lora": 2}], ids=str)
def test_activations_are_those_that_a_step_keeps(options, tiny_checkpoint, tmp_path):
    data = SourceSpec(place=write_label_maps(tmp_path / "data", count=4))
    job = TrainingJob(
        data=[data], output=tmp_path / "out", model=tiny_checkpoint,
        options=TrainOptions(model="tiny-sd", steps=1, batch=4, fold=2, own_share=0, **options), held_share=0, cpu=True,
    )  # fmt: skip
    engine = open_run(job, lambda *_: None, lambda *_: None)
    batch = engine.batches.make(0, 0, 1)
    counted = count_activations(engine.trainee, batch, job.options)
    counter = _Counter()
    with torch.autograd.graph.saved_tensors_hooks(counter.note, lambda tensor: tensor):
        engine.trainee.train()(batch, 0.0)
    assert counted == pytest.approx(counter.total, rel=0.05)
