"""The lines of the smoke table: each a function of the scratch folder that says what it found."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segrefine.assets import demo_bundle, demo_checkpoint
from segrefine.bundle import Bundle
from segrefine.engines import BuildOptions, build_engine, load_engine
from segrefine.engines.cuda import open_gpu
from segrefine.engines.diagnosis import cuda_driver, gpu_here, list_packages
from segrefine.engines.hardware import gpu_identity
from segrefine.engines.tensorrt.engine import TensorRtEngines
from segrefine.storage import locked

Check = Callable[[Path], Mapping[str, object]]
BACKENDS = ("tensorrt-rtx", "tensorrt", "onnxruntime")
SIZES = ((1, 16, 16), (3, 16, 16), (2, 24, 16))
"""Batch, height and width of latents."""
TOLERANCE = 1e-4
"""Of the largest value, in float32 without TensorFloat-32, see `segrefine.export.comparison`."""


def list_checks(device: str) -> dict[str, Check]:
    """The checks by name, in the order in which they run: the quick ones first."""
    backends = BACKENDS if device == "cuda" else ("onnxruntime",)
    checks: dict[str, Check] = {"driver and libraries": partial(check_machine, device=device)}
    for backend in backends:
        checks[f"{backend}: three sizes"] = partial(check_sizes, backend=backend, device=device)
        checks[f"{backend}: opened again"] = partial(check_reopened, backend=backend, device=device)
    if device == "cuda":
        checks["tensorrt: CUDA graph"] = check_graph
    checks["kernels"] = partial(check_kernels, device=device)
    for dtype in ("fp32", "fp16"):
        for backend in backends:
            checks[f"{backend}: parity of the demo, {dtype}"] = partial(
                check_parity_of, backend=backend, dtype=dtype, device=device
            )
    if device == "cuda":
        checks["torch fp16 eager: SD 1.5 UNet"] = check_eager
        for backend in backends:
            checks[f"{backend}: SD 1.5 UNet"] = partial(check_full_size, backend=backend)
    return checks


def check_machine(scratch: Path, *, device: str) -> Mapping[str, object]:
    """The GPU, its driver, and the versions of all that matters."""
    wanted = ("onnxruntime-gpu", "tensorrt", "cuda-bindings")
    packages = {
        name: version for name, version in list_packages().items() if name in wanted or name.endswith("_bindings")
    }
    found = ", ".join(f"{name} {version}" for name, version in packages.items())
    if device != "cuda":
        return {"found": found}
    memory = open_gpu(0).free_memory() >> 20
    name = ""
    with suppress(ImportError, RuntimeError):
        import torch

        name = torch.cuda.get_device_name() + ", "
    return {"found": f"{name}{gpu_here()}, {memory} MiB free, driver for CUDA {cuda_driver()}, {found}"}


def check_sizes(scratch: Path, *, backend: str, device: str) -> Mapping[str, object]:
    """The demo's UNet at three sizes, against ONNX Runtime on the CPU."""
    bundle = _bundle(scratch)
    _build(bundle, backend, device, ["unet"])
    worst = 0.0
    with load_engine(bundle, "unet") as expected, load_engine(bundle, "unet", backend, device=device) as engine:
        for sizes in SIZES:
            feeds = _feeds(bundle, *sizes)
            for _ in range(2):  # the second call is the one that replays what the first captured
                worst = max(worst, _difference(engine(feeds), expected(feeds)))
    return _judge(f"error {worst:.1e} of the largest value", f"{TOLERANCE:.0e}", worst <= TOLERANCE, device)


def check_reopened(scratch: Path, *, backend: str, device: str) -> Mapping[str, object]:
    """Seconds to the first result, with what an earlier process compiled, and without."""
    bundle = _bundle(scratch)
    _build(bundle, backend, device, ["unet"])
    caches = list(bundle.path.glob(f"engines/{backend}/unet/*.cache"))
    kept = {path: path.read_bytes() for path in caches}
    for path in caches:
        path.unlink()
    feeds, seconds = _feeds(bundle, *SIZES[0]), []
    for _ in range(2):
        began = time.perf_counter()
        with load_engine(bundle, "unet", backend, device=device) as engine:
            engine(feeds)
        seconds.append(time.perf_counter() - began)
    for path, content in kept.items():
        path.write_bytes(content)
    made = backend != "tensorrt-rtx" or bool(list(bundle.path.glob(f"engines/{backend}/unet/*.cache")))
    found = f"{seconds[0]:.2f} s, then {seconds[1]:.2f} s" + ("" if made else "; no runtime cache was written")
    return _judge(found, "a cache" if backend == "tensorrt-rtx" else "", made, device)


def check_graph(scratch: Path) -> Mapping[str, object]:
    """An engine of one size: captured, and the same as its own first run."""
    bundle, size = _bundle(scratch), {"batch": 2}
    options = BuildOptions(min_shapes=size, opt_shapes=size, max_shapes=size)
    build_engine(bundle, backend="tensorrt", components=["unet"], options=options)
    feeds = _feeds(bundle, 2, 16, 16)
    with load_engine(bundle, "unet", "tensorrt") as engine:
        plain = engine(feeds)
        replayed = [engine(feeds) for _ in range(3)]
        assert isinstance(engine, TensorRtEngines)
        captured = any(each._graph for each in engine._engines)
    error = max(_difference(each, plain) for each in replayed)
    found = f"{'captured' if captured else 'not captured'}, differs by {error:.1e}"
    return _judge(found, "captured, 1e-06", captured and error <= 1e-6, "cuda")


def check_kernels(scratch: Path, *, device: str) -> Mapping[str, object]:
    """Both custom kernels, as Triton compiles them here, against float64."""
    if find_spec("triton") is None:
        return {"state": "failed", "found": "triton is not installed"}
    import torch

    from benchmarks.gpu.launch import run_attention, run_hausdorff
    from segrefine.engines.tensorrt.plugins.compile import attention_variant, hausdorff_variant
    from segrefine.reference.hausdorff import pixel_hausdorff

    torch.manual_seed(0)
    pixels = 1024 if device == "cuda" else 64
    errors = {}
    for dtype, kind in (("fp16", torch.float16), ("fp32", torch.float32)):
        q, k, v = (torch.randn(1, 2, pixels, 40, device=device).to(kind) for _ in range(3))
        a, b = (torch.randn(1, pixels, 2, device=device).to(kind) for _ in range(2))
        scores = 40**-0.5 * q.double() @ k.double().mT + (a.double() @ b.double().mT)[:, None]
        got = run_attention(attention_variant(dtype, 40, sparse=False), q, k, v, a, b)
        errors[f"attention {dtype}"] = float((got - scores.softmax(-1) @ v.double()).abs().max())
    fa, fb = (torch.randn(1, pixels, 64, device=device) for _ in range(2))
    w = torch.rand(1, pixels, device=device)
    distance = run_hausdorff(hausdorff_variant("fp32"), fa, fb, w)
    errors["hausdorff fp32"] = float((distance - pixel_hausdorff(fa.double(), fb.double(), w)).abs().max())
    well = all(error <= (3e-3 if name.endswith("fp16") else 1e-5) for name, error in errors.items())
    found = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    return _judge(found, "3e-03 fp16, 1e-05 fp32", well, device)


def check_parity_of(scratch: Path, *, backend: str, dtype: str, device: str) -> Mapping[str, object]:
    """Every component of the demo and its whole loop, against PyTorch in float32."""
    from benchmarks.timing import sample_scenes
    from segrefine.export.parity import check_parity

    bundle = _bundle(scratch, dtype)
    _build(bundle, backend, device, None)
    rows = list(check_parity(bundle.path, demo_checkpoint(), sample_scenes()[:1], backend=backend, device=device))
    worst = max(rows, key=lambda row: row.error / row.tolerance)
    share = worst.error / worst.tolerance
    return _judge(f"{share:.2f} of its tolerance at worst: {worst.component}, {worst.step}", "1", share <= 1, device)


def check_eager(scratch: Path) -> Mapping[str, object]:
    """One step of a UNet of Stable Diffusion 1.5's size in PyTorch, half precision, random weights."""
    import torch

    from benchmarks.full_size import make_unet

    with torch.inference_mode():
        unet = make_unet("sd15", torch.float16, "cuda")
        latents = torch.randn(2, 4, 64, 64, device="cuda", dtype=torch.float16)
        text = torch.randn(2, 77, 768, device="cuda", dtype=torch.float16)
        seconds = _median(lambda: unet(latents, 500, text).sample.cpu())
    peak = torch.cuda.max_memory_allocated() >> 20
    (scratch / "eager.txt").write_text(str(seconds))
    return {"found": f"{1e3 * seconds:.1f} ms a step of batch 2", "peak": peak}


def check_full_size(scratch: Path, *, backend: str) -> Mapping[str, object]:
    """The same step by an engine, with the mask injected; latents from the host and back."""
    bundle = _full_size_bundle(scratch)
    _build(bundle, backend, "cuda", ["unet"])
    feeds = _feeds(bundle, 2, 64, 64)
    with load_engine(bundle, "unet", backend, device="cuda") as engine:
        if not all(np.isfinite(each).all() for each in engine(feeds).values()):
            return {"state": "failed", "found": "values that are not finite"}
        seconds = _median(lambda: engine(feeds, only="out_sample"))
    found, eager = f"{1e3 * seconds:.1f} ms a step of batch 2", scratch / "eager.txt"
    if not eager.exists():
        return _judge(found, "", True, "cuda")
    ratio = float(eager.read_text()) / seconds
    return _judge(f"{found}, eager ÷ this {ratio:.2f}", "2", ratio >= 2, "cuda")


def _bundle(scratch: Path, dtype: str = "fp32") -> Bundle:
    """The demo's bundle in the scratch folder, made by the first line that needs it."""
    folder = scratch / f"demo-{dtype}"
    with locked(scratch):
        if not folder.exists() and dtype == "fp32":
            shutil.copytree(demo_bundle(), folder)
        elif not folder.exists():
            from segrefine.export import export_bundle

            export_bundle("demo", folder, dtype="fp16")
    return Bundle.open(folder)


def _full_size_bundle(scratch: Path) -> Bundle:
    """The UNet's bundle of `benchmarks.tensorrt_build` where that has run here, else a new one."""
    from benchmarks.full_size import FOLDER, write_full_size

    kept, made = FOLDER / "sd15-fp16-bundle", scratch / "sd15-bundle"
    if kept.exists():
        return Bundle.open(kept)
    if not made.exists():
        import torch

        from segrefine.export import export_bundle

        checkpoint = write_full_size("sd15", scratch, torch.float16)
        export_bundle(checkpoint, made, dtype="fp16", components=["unet"])
    return Bundle.open(made)


def _build(bundle: Bundle, backend: str, device: str, components: list[str] | None) -> None:
    """Build what is not there yet, for the GPU here and all of `SIZES`."""
    options = BuildOptions()
    if backend.startswith("tensorrt"):
        side = bundle.manifest.sample_size
        capability = gpu_identity(0).removeprefix("sm")
        options = BuildOptions(
            max_shapes={"batch": 3, "height": side + 8, "width": side} if side == 16 else {"batch": 3},
            compute_capabilities=(f"{capability[:-1]}.{capability[-1]}",) if backend == "tensorrt-rtx" else (),
        )
    build_engine(bundle, backend=backend, device=device, components=components, options=options)


def _feeds(bundle: Bundle, batch: int, height: int, width: int) -> dict[str, NDArray[Any]]:
    """Random inputs of the UNet, a text indicator and a mask among them."""
    sizes = {
        "batch": batch,
        "height": height,
        "width": width,
        "pixels": height * width,
        "tokens": bundle.manifest.tokens,
    }
    generator = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in bundle.manifest.components["unet"].inputs:
        shape = tuple(sizes[each] if isinstance(each, str) else each for each in tensor.shape)
        if tensor.dtype.startswith("int"):
            feeds[tensor.name] = np.full(shape, 500, tensor.dtype)
        elif tensor.name in ("foreground", "token_indicator", "strength"):
            feeds[tensor.name] = generator.uniform(size=shape).astype(tensor.dtype)
        else:
            feeds[tensor.name] = generator.standard_normal(shape).astype(tensor.dtype)
    return feeds


def _difference(got: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> float:
    """The largest difference, as a share of the largest value; infinite where a value is not finite."""
    worst = 0.0
    for name, values in expected.items():
        if not np.isfinite(got[name]).all():
            return float("inf")
        worst = max(worst, float(np.abs(got[name] - values).max() / np.abs(values).max()))
    return worst


def _median(call: Callable[[], object], repeats: int = 20) -> float:
    """Median seconds of a call, after five unmeasured ones."""
    times = []
    for turn in range(-5, repeats):
        began = time.perf_counter()
        call()
        if turn >= 0:
            times.append(time.perf_counter() - began)
    return float(np.median(times))


def _judge(found: str, bar: str, well: bool, device: str) -> Mapping[str, object]:
    """A line, with the device memory at the peak of this process."""
    peak = open_gpu(0).peak >> 20 if device == "cuda" else 0
    return {"state": "ok" if well else "failed", "found": found, "bar": bar, "peak": peak}
