import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result


def test_writes_a_model(run: Callable[..., Result], tmp_path: Path) -> None:
    result = run("export-triton", "demo-gs", tmp_path / "models", "--threads", 1, "--delay", 2, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert values["model"] == "demo-gs" and Path(values["version"]) == tmp_path / "models/demo-gs/1"
    config = (tmp_path / "models/demo-gs/config.pbtxt").read_text()
    assert "max_queue_delay_microseconds: 2000" in config and 'string_value: "1"' in config


def test_name_that_is_taken(run: Callable[..., Result], fails: Callable[..., str], tmp_path: Path) -> None:
    words = ("export-triton", "demo-gs", tmp_path, "--name", "fox")
    assert run(*words).exit_code == 0
    assert "exists already" in fails(*words)
    assert run(*words, "--overwrite").exit_code == run(*words, "--model-version", 2).exit_code == 0


def test_a_model_that_finds_phrases(run: Callable[..., Result], fails: Callable[..., str], tmp_path: Path) -> None:
    result = run("export-triton", "photo", tmp_path, "--zero-shot", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["model"] == "photo-words"
    config = (tmp_path / "photo-words/config.pbtxt").read_text()
    assert '"zero_shot"' in config and '"phrases"' in config and '"label"' not in config
    assert "generates masks" in fails("export-triton", "photo-gs", tmp_path, "--zero-shot")
    assert not (tmp_path / "photo-gs-words").exists()


def test_no_bundle_there(fails: Callable[..., str], tmp_path: Path) -> None:
    assert "nothing" in fails("export-triton", tmp_path / "nothing", tmp_path / "models")
