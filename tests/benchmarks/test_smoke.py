"""The smoke table: each line in a process of its own, whatever becomes of the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.gpu import smoke
from benchmarks.gpu.smoke import describe, run_child, run_lines
from benchmarks.gpu.smoke_checks import list_checks
from benchmarks.report import write_result
from segrefine.errors import EngineError

PROGRAM = """
import json, os, signal, sys, time
name = sys.argv[sys.argv.index("--child") + 1]
print("a library prints this first")
if name == "crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
if name == "hangs":
    time.sleep(600)
if name == "says nothing":
    sys.exit(3)
print(json.dumps({"state": "failed" if name == "fails" else "ok", "found": "1.0 | of 2", "bar": "2", "peak": 5}))
"""


def test_no_line_takes_another_with_it() -> None:
    names = ["works", "fails", "crashes", "says nothing", "works again", "hangs", "comes too late"]
    lines = {line.check: line for line in run_lines(names, [sys.executable, "-c", PROGRAM], 25)}
    assert {name: lines[name].state for name in names} == {
        "works": "ok",
        "fails": "failed",
        "crashes": "crashed",
        "says nothing": "crashed",
        "works again": "ok",
        "hangs": "no time",
        "comes too late": "no time",
    }
    assert "signal 11" in lines["crashes"].found and "status 3" in lines["says nothing"].found
    table = describe(list(lines.values()))
    assert "2 of 7 lines are as they should be" in table
    assert "| works | ok | 1.0 / of 2 | 2 | 5 |" in table


@pytest.mark.parametrize("error", [EngineError("no memory", hint="less of it"), TypeError("Dims == Dims")])
def test_a_check_that_raises_is_a_line(error: Exception, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def check(scratch: Path) -> dict[str, object]:
        raise error

    run_child(check, tmp_path)
    answer = json.loads(capsys.readouterr().out)
    assert answer["state"] == "failed" and str(error) in answer["found"]


def test_the_checks_cover_every_backend() -> None:
    names = list(list_checks("cuda"))
    for backend in ("tensorrt-rtx", "tensorrt", "onnxruntime"):
        for what in ("three sizes", "opened again", "parity of the demo, fp16", "parity of the demo, fp32"):
            assert f"{backend}: {what}" in names
        assert f"{backend}: SD 1.5 UNet" in names
    assert names[0] == "driver and libraries" and {"kernels", "tensorrt: CUDA graph"} <= {*names}


def test_checks_run_on_the_cpu(tmp_path: Path) -> None:
    """On ONNX Runtime against itself: the program works, which says nothing about a GPU."""
    checks = list_checks("cpu")
    for name in ("driver and libraries", "onnxruntime: three sizes", "onnxruntime: opened again"):
        answer = checks[name](tmp_path)
        assert answer.get("state", "ok") == "ok", answer


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks.gpu import device
    from segrefine.engines.cuda import check_gpu
    from segrefine.errors import SegrefineError

    try:
        check_gpu(0)
    except SegrefineError:
        pass
    else:
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(device, "RESULTS", tmp_path)
    monkeypatch.setattr(write_result, "__kwdefaults__", {"results": tmp_path})
    done = CliRunner().invoke(smoke.main, [])
    assert done.exit_code == 0 and "skipped: the NVIDIA driver is missing" in done.output
    assert "**Not measured: the NVIDIA driver is missing" in (tmp_path / "gpu_smoke.md").read_text()


def test_an_unknown_check_lists_those_there_are() -> None:
    done = CliRunner().invoke(smoke.main, ["--device", "cpu", "--only", "nothing"])
    assert done.exit_code == 2 and "driver and libraries" in done.output
