"""Every extra alone, from a built wheel in a fresh environment: each does what it promises (`make test-install`).

python -m tests.install.extras                        # all cases on this Python
python -m tests.install.extras cpu lowest             # some of them
python -m tests.install.extras --python python3.13 cpu
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parents[2]
WHEEL_MB = 32
"""Most megabytes of the wheel: more than the bar of `benchmarks.install`, for it holds two models for photographs."""
BUILDERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence")
"""What an environment has before anything is installed."""
SAMPLES = "from segrefine.assets import demo_samples; print(demo_samples())"
SERVE = """
import socket, subprocess, sys, time, urllib.request
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = str(free.getsockname()[1])
service = subprocess.Popen([sys.executable, "-m", "segrefine", "serve", "photo", "--port", port])
try:
    for _ in range(120):
        time.sleep(0.5)
        assert service.poll() is None, "the service has ended"
        try:
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready").status == 200
            break
        except OSError:
            continue
    else:
        raise SystemExit("the service did not get ready in a minute")
finally:
    service.terminate()
"""
HEIC = """
import sys, pillow_heif
from PIL import Image
pillow_heif.register_heif_opener()
Image.open(sys.argv[1]).save(sys.argv[2])
"""
Run = Callable[..., str]
"""Runs words in the environment under test and gives what they print; the first word `segrefine` is its command."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One installation.

    Attributes:
        extras: what is installed.
        lowest: with the lowest versions that are allowed and have a wheel for this Python.
        check: what must work; raises what is wrong.
    """

    extras: str
    check: Callable[[Run, Path], None]
    lowest: bool = False


def sample_of(run: Run) -> tuple[str, str]:
    folder = Path(run("python", "-c", SAMPLES).strip())
    name = "01-banana-dilate.png"
    return str(folder / "images" / name), str(folder / "masks" / name)


def lay_out_sample(run: Run, folder: Path, *names: str) -> Path:
    """A folder with a sample under each of the names, as `segrefine batch` reads it."""
    image, mask = sample_of(run)
    for part, file in (("images", image), ("masks/banana", mask)):
        (folder / "data" / part).mkdir(parents=True)
        for name in names:
            (folder / "data" / part / name).write_bytes(Path(file).read_bytes())
    return folder / "data"


def refines(run: Run, folder: Path, *options: str) -> None:
    """A sample's mask is refined, and `python -m segrefine` is the same command."""
    image, mask = sample_of(run)
    run("segrefine", "refine", image, mask, "--label", "banana", "-o", str(folder / "mask.png"), *options)
    assert (folder / "mask.png").stat().st_size > 100
    assert run("python", "-m", "segrefine", "--version") == run("segrefine", "--version")


def refines_by_openvino(run: Run, folder: Path) -> None:
    refines(run, folder, "--backend", "openvino")


def refines_a_heic(run: Run, folder: Path) -> None:
    """A HEIC picture is refined."""
    image, mask = sample_of(run)
    picture = folder / "image.heic"
    run("python", "-c", HEIC, image, str(picture))
    run("segrefine", "refine", str(picture), mask, "--label", "banana", "-o", str(folder / "mask.png"))
    assert (folder / "mask.png").stat().st_size > 100


def serves(run: Run, folder: Path) -> None:
    """The service starts with the model that ships, and says that it is ready."""
    assert "--port" in run("segrefine", "serve", "--help")
    run("python", "-c", SERVE)


def has_a_client(run: Run, folder: Path) -> None:
    run("python", "-c", "from segrefine import Client; Client()")


def asks_the_hub(run: Run, folder: Path) -> None:
    """A hub id is looked for by the hub's client: here in an empty cache, without the network."""
    run(
        "python", "-c",
        "import os, sys; os.environ.update(HF_HUB_OFFLINE='1', HF_HOME=sys.argv[1])\n"
        "from segrefine import Refiner; from segrefine.errors import BundleError\n"
        "try: Refiner.from_pretrained('owner/name')\n"
        "except BundleError as error: assert 'HF_HUB_OFFLINE' in error.hint, error",
        str(folder / "cache"),
    )  # fmt: skip


def exports(run: Run, folder: Path) -> None:
    """Part of the demo model is exported and checked against PyTorch."""
    run("segrefine", "export", "demo", str(folder / "bundle"), "--components", "vae_encoder,text_encoder")
    assert (folder / "bundle/segrefine.json").is_file()


def trains(run: Run, folder: Path) -> None:
    """The model for photographs is trained for one step, and the checkpoint is exported."""
    data = lay_out_sample(run, folder, "a.png", "b.png")
    output = folder / "run"
    steps = ("--steps", "1", "--batch", "2", "--held-out", "0", "--cpu")
    run("segrefine", "train", str(data), str(output), "--from", "photo-gs", *steps)
    run("segrefine", "export", str(output / "checkpoint"), str(folder / "bundle"))
    assert (folder / "bundle/segrefine.json").is_file()


def batches(run: Run, folder: Path) -> None:
    """A cluster of this machine refines one sample."""
    run("segrefine", "batch", str(lay_out_sample(run, folder, "a.png")), str(folder / "out"), "--ray", "local")
    assert (folder / "out/masks/banana/a.png").is_file()


CASES = {
    "cpu": Case(extras="cpu", check=refines),
    "openvino": Case(extras="openvino", check=refines_by_openvino),
    "heif": Case(extras="cpu,heif", check=refines_a_heic),
    "serve": Case(extras="cpu,serve", check=serves),
    "client": Case(extras="client", check=has_a_client),
    "hub": Case(extras="hub", check=asks_the_hub),
    "export": Case(extras="export", check=exports),
    "train": Case(extras="cpu,train", check=trains),
    "ray": Case(extras="ray", check=batches),
    "lowest": Case(extras="cpu", check=refines, lowest=True),
    "lowest-heif": Case(extras="cpu,heif", check=refines_a_heic, lowest=True),
    "lowest-openvino": Case(extras="openvino", check=refines_by_openvino, lowest=True),
    "lowest-serve": Case(extras="cpu,serve", check=serves, lowest=True),
}


def build_wheel(folder: Path) -> Path:
    """Build the wheel, and check its size and what the package page will show of it."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)], check=True
    )
    wheel = next(folder.glob("*.whl"))
    size = wheel.stat().st_size / 1e6
    assert size <= WHEEL_MB, f"the wheel has {size:.1f} MB, at most {WHEEL_MB} are allowed"
    print(f"the wheel has {size:.1f} MB", flush=True)
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(
            next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        ).decode()
    relative = re.findall(r"\]\((?!https?://|#)[^)]*\)", metadata)
    assert not relative, f"links of the package page that lead nowhere: {relative}"
    assert "Project-URL: Source" in metadata
    return wheel


def lowest_versions(wheel: Path, extras: str, python: str) -> list[str]:
    """`name==version` of each direct dependency: the lowest that the wheel allows and that has a wheel for a Python."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(
            next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        ).decode()
    pins = []
    for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE):
        requirement, _, marker = line.partition(";")
        of = re.search(r"extra == ['\"]([^'\"]+)", marker)
        found = re.match(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*>=\s*([0-9.]+)", requirement.strip())
        if found and (of is None or of[1] in extras.split(",")):
            pins.append(f"{found[1]}=={lowest_version(found[1], found[2], python)}")
    return pins


def lowest_version(name: str, least: str, python: str) -> Version:
    """The lowest version from `least` on that has a wheel for a Python: NumPy 1.26 has none for Python 3.13."""
    command = [python, "-m", "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:", f"{name}==0"]
    refusal = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    listed = re.search(r"\(from versions: ([^)]+)\)", refusal)  # pip has no command that lists versions with wheels
    assert listed, f"pip does not list the versions of {name}:\n{refusal}"
    found = [version for version in map(Version, listed[1].split(", ")) if version >= Version(least)]
    return min(version for version in found if not version.is_prerelease)


def installed_size(environment: Path) -> float:
    """Megabytes of all that was installed, compiled modules included."""
    [place] = environment.glob("**/site-packages")
    parts = [part for part in place.iterdir() if not part.name.startswith(BUILDERS)]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def try_case(case: Case, wheel: Path, python: str, folder: Path) -> float:
    """Install one case and check it.

    Returns:
        Megabytes that were installed.

    Raises:
        AssertionError: something does not work.
        CalledProcessError: a command fails.
    """
    place = folder / "environment"
    subprocess.run([python, "-m", "venv", str(place)], check=True)
    binaries = place / ("Scripts" if sys.platform == "win32" else "bin")
    pins = lowest_versions(wheel, case.extras, str(binaries / "python")) if case.lowest else []
    install = [str(binaries / "python"), "-m", "pip", "install", "--quiet", f"{wheel}[{case.extras}]", *pins]
    subprocess.run(install, check=True)
    size = installed_size(place)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the wheel, not a work tree

    def run(program: str, *words: str) -> str:
        command = [str(binaries / program), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=clean)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
        return done.stdout

    case.check(run, folder)
    return size


def main(words: Sequence[str] | None = None) -> None:
    """Try the cases, and exit with 1 where one fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)}; all by default")
    parser.add_argument("--python", action="append", help="interpreter of the environments; may be repeated")
    options = parser.parse_args(words)
    if unknown := set(options.cases) - set(CASES):
        parser.error(f"there is no case {min(unknown)}; there are {', '.join(CASES)}")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="segrefine-install-") as scratch:
        wheel = build_wheel(Path(scratch))
        for python in options.python or [sys.executable]:
            for name in options.cases or CASES:
                folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=scratch))
                try:
                    size = try_case(CASES[name], wheel, python, folder)
                except (AssertionError, subprocess.CalledProcessError) as error:
                    failed += 1
                    print(f"{python} {name}: FAILED: {error}", flush=True)
                else:
                    print(f"{python} {name}: ok, {size:.0f} MB installed", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
