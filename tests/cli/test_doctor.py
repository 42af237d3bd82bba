"""`segrefine doctor`."""

import json

from segrefine.engines import diagnosis
from segrefine.engines.openvino import backend as openvino_backend
from segrefine.errors import BackendError


def test_tells_what_can_be_done_here(run):
    done = run("doctor", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    abilities = {(each["backend"], each["where"]): each for each in values["abilities"]}
    assert abilities["onnxruntime", "cpu"]["possible"] and abilities["openvino", "cpu, fp32"]["possible"]
    assert abilities["tensorrt-rtx", "any GPU it supports"]["possible"]
    assert values["packages"].keys() >= {"onnxruntime", "openvino", "polygraphy"}
    assert values["conflicts"] == []
    for each in abilities.values():
        assert each["possible"] or (each["problem"] and each["hint"])


def test_says_why_not_and_what_to_do(run, monkeypatch):
    def refuse(precision):
        raise BackendError("no such CPU", hint="buy one")

    monkeypatch.setattr(openvino_backend, "check_openvino", refuse)
    said = run("doctor").stdout
    assert "no such CPU" in said and "hint: buy one" in said


def test_both_builds_of_onnxruntime_are_a_conflict(run, monkeypatch):
    monkeypatch.setattr(diagnosis, "version", lambda package: "1.0")
    done = run("doctor")
    assert "warning: onnxruntime and onnxruntime-gpu overwrite each other" in done.stderr
    assert "onnxruntime-gpu 1.0" in done.stdout


def test_a_machine_without_a_driver_has_none(monkeypatch):
    monkeypatch.setattr(diagnosis, "_CUDA_DRIVER", "libnothing.so.1")
    assert diagnosis.cuda_driver() is None
