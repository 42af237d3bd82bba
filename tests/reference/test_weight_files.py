"""Weight files that are cut short, or are none, and what they are told to be."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from segrefine.errors import ExportError
from segrefine.reference.weight_files import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros((), np.float16)}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_what_a_header_says(file: Path) -> None:
    assert {name: (stored.dtype, stored.count) for name, stored in read_header(file).items()} == {
        "a": ("F32", 6),
        "b": ("F16", 1),
    }


@pytest.mark.parametrize("cut", [0, 5, 8, 30, -1])
def test_a_truncated_file_is_told_with_both_sizes(file: Path, cut: int) -> None:
    size = file.stat().st_size
    os.truncate(file, cut if cut >= 0 else size + cut)
    expected = size if cut < 0 else r"more than \d+"
    message = rf"is truncated: expected {expected} bytes, got {file.stat().st_size}"
    with pytest.raises(ExportError, match=message) as refused:
        read_header(file)
    assert "fetch it again" in str(refused.value.hint)


def test_a_file_that_is_too_long(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ExportError, match="is damaged: expected .* bytes"):
        read_header(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 3438167534\n", "stands for weights"),
        (b"<!doctype html><html>Sign in</html>", "is not a safetensors file: it begins with b'<!doctype html>"),
        (b"\x02" + bytes(7) + b"[]", "is not a safetensors file"),
        (b"\x05" + bytes(7) + b"{{{{{", "is not a safetensors file"),
        (b"\x08" + bytes(7) + b'{"a": 1}', "is not a safetensors file"),
        (b"\x0a" + bytes(7) + b'{"a": {} }', "is not a safetensors file"),
    ],
)
def test_what_is_called_safetensors_and_is_none(file: Path, content: bytes, message: str) -> None:
    file.write_bytes(content)
    with pytest.raises(ExportError, match=message):
        read_header(file)
