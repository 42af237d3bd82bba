"""The process that builds one engine. It reads a job as JSON from stdin and answers with one last line on stdout.

The line is "built", or "disk: …" or "failed: …" with the exit status 1. All else goes to stderr.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from segrefine.engines.tensorrt.job import BuildJob


def main() -> int:
    """Builds the engine; the exit status."""
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    job = BuildJob.from_json(sys.stdin.read())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the library prints on stdout as well
    try:
        _build(job)
    except OSError as error:
        answer = f"disk: {error.strerror or error}"
    except Exception as error:  # Polygraphy's errors are plain exceptions
        answer = f"failed: {' '.join(str(error).split())}"
    else:
        answer = "built"
    print(answer, file=answers, flush=True)
    return answer != "built"


def _end_with_parent(parent: int) -> None:
    """Ends this process when the one that asked is gone: nobody waits for the engine then."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _build(job: BuildJob) -> None:
    rtx = job.library == "tensorrt-rtx"
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = str(int(rtx))
    from segrefine.engines.tensorrt.libraries import import_library
    from segrefine.engines.tensorrt.plugins.registration import register_plugins

    library: Any = import_library(job.library)
    from polygraphy.backend.trt import EngineBytesFromNetwork

    if job.plugins:  # the plugins replace the graph's functions if they are known before it is read
        register_plugins(library)
    parsed = parse_graph(library, job.graph)
    engine = EngineBytesFromNetwork(parsed, _configure(library, job), save_timing_cache=job.timing_cache)()
    Path(job.engine).write_bytes(engine)


def parse_graph(library: Any, graph: str) -> tuple[Any, Any, Any]:
    """Builder, network and parser of a graph. Strong typing keeps the precision of each tensor in the graph.

    TensorRT 11 and TensorRT-RTX type strongly by themselves. Older versions would compute in float32 unless asked.
    """
    from polygraphy.backend.trt import NetworkFromOnnxPath

    builder, network, parser = NetworkFromOnnxPath(graph, strongly_typed=True)()
    _let_attention_decompose(library, network)
    return builder, network, parser


def _configure(library: Any, job: BuildJob) -> Any:
    """Return the function that makes the builder's configuration from builder and network."""
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig, Profile

    profile = Profile()
    for name, (smallest, tuned, largest) in job.shapes.items():
        profile.add(name, tuple(smallest), tuple(tuned), tuple(largest))
    options: dict[str, Any] = {"profiles": [profile], "builder_optimization_level": job.optimization_level}
    if job.workspace:
        options["memory_pool_limits"] = {library.MemoryPoolType.WORKSPACE: job.workspace << 20}
    cache = job.timing_cache
    if cache and Path(cache).exists():
        _check_timing_cache(library, Path(cache))
        options["load_timing_cache"] = cache
    if job.library == "tensorrt-rtx":
        capabilities = [tuple(each) for each in job.compute_capabilities]
        make: Any = CreateConfigRTX(compute_capabilities=capabilities, **options)
    else:
        make = CreateConfig(version_compatible=job.version_compatible, **options)

    def create(builder: Any, network: Any) -> Any:
        config = make(builder, network)
        set_tf32(library, config, allowed=job.tf32)
        return config

    return create


def set_tf32(library: Any, config: Any, *, allowed: bool) -> None:
    """Allow or forbid TensorFloat-32. The libraries allow it by default; Polygraphy forbids it for TensorRT only."""
    change = config.set_flag if allowed else config.clear_flag
    change(library.BuilderFlag.TF32)


def _check_timing_cache(library: Any, path: Path) -> None:
    """Raises ValueError unless the file begins as the library's own timing caches do: it will be written over."""
    config = library.Builder(library.Logger(library.Logger.ERROR)).create_builder_config()
    own = bytes(config.create_timing_cache(b"").serialize())
    if path.read_bytes()[:4] != own[:4]:
        raise ValueError(f"{path} is no timing cache")


def _let_attention_decompose(library: Any, network: Any) -> None:
    """Allows attention in more than one kernel: in float32, and for some widths and lengths, there is no fused one."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == library.LayerType.ATTENTION_INPUT:
            layer.__class__ = library.IAttentionInputLayer  # the bindings give every layer as an ILayer
            layer.attention.decomposable = True


if __name__ == "__main__":
    sys.exit(main())
