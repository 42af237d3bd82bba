from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from segrefine.assets import demo_samples
from segrefine.cli import main

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Runs a command line in this process."""
    return lambda *words, **extra: CliRunner().invoke(main, [str(word) for word in words], **extra)


@pytest.fixture
def fails(run: Run) -> Callable[..., str]:
    """Runs a command line that should fail: exit code 1, one error line, one hint. Returns the error line."""

    def check(*words: object, **extra: object) -> str:
        result = run(*words, **extra)
        assert result.exit_code == 1, result.output
        lines = result.stderr.strip().splitlines()
        assert [line.partition(":")[0] for line in lines[-2:]] == ["error", "hint"], result.stderr
        assert "Traceback" not in result.stderr and "unexpected" not in result.stderr
        return lines[-2]

    return check


@pytest.fixture(scope="session")
def scene() -> tuple[Path, Path, str]:
    """Image, coarse mask and label of one shipped scene."""
    name = "02-car-erode.png"
    return demo_samples() / "images" / name, demo_samples() / "masks" / name, "car"
