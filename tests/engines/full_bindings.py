"""The bindings of full TensorRT without its builder library, which is not to be had everywhere.

The bindings need three libraries. Here gcc makes them: small ones with only the functions that the bindings ask for,
each of which returns a null pointer. The first of them loads the lean runtime, so that its plugin registry and its
runtime are the real ones. So the classes, their signatures and the registration of plugins are real.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_STUBS = {
    "libnvinfer.so.11": ("createInferBuilder_INTERNAL", "getBuilderPluginRegistry"),
    "libnvinfer_plugin.so.11": ("initLibNvInferPlugins",),
    "libnvonnxparser.so.11": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}


def build_stubs(folder: Path) -> Path:
    """The folder, with the three libraries; skips the test where the bindings or a compiler are missing."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    for package in ("tensorrt_bindings", "tensorrt_lean_libs"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (tensorrt_cu13_bindings, tensorrt_lean_cu13_libs)")
    if compiler is None:
        pytest.skip("there is no C compiler")
    spec = importlib.util.find_spec("tensorrt_lean_libs")
    assert spec and spec.origin
    lean = Path(spec.origin).parent
    for library, functions in _STUBS.items():
        source = "\n".join(f"void *{name}(void) {{ return 0; }}" for name in functions)
        real = [f"-L{lean}", "-Wl,--no-as-needed", "-l:libnvinfer_lean.so.11", f"-Wl,-rpath,{lean}"]
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{library}", "-x", "c", "-", "-o", str(folder / library)]
        extra = ["-x", "none", *real] if library == "libnvinfer.so.11" else []
        subprocess.run([*command, *extra], input=source, text=True, check=True)
    return folder


def run_with_full_bindings(stubs: Path, code: str) -> str:
    """Standard output of a Python program that can import the full bindings."""
    environment = os.environ | {"LD_LIBRARY_PATH": str(stubs)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr}"
    return done.stdout
