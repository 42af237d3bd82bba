"""The custom ops as TensorRT plugins that are compiled ahead of time: an engine carries their PTX and needs no Python.

They take the place of the ONNX functions, whose nodes name them (`plugin_namespace`, `plugin_version`). TensorRT-RTX
has no plugins.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"
# The plugin interface reads annotations as types: there must be no `from __future__ import annotations` here.

import json
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

NAMESPACE = "segrefine"
"""What the nodes of the graphs have as `plugin_namespace`; TensorRT allows no dot in it."""
_FOLDER = Path(__file__).with_name("ptx")


@cache
def register_plugins(trt: ModuleType) -> None:
    """Makes the plugins known to TensorRT; once a process.

    Args:
        trt: the module `tensorrt`, of full TensorRT.
    """
    trtp: Any = import_module("tensorrt.plugin")
    _register_attention(trt, trtp)
    _register_hausdorff(trt, trtp)


def _register_attention(trt: Any, trtp: Any) -> None:
    identifier = f"{NAMESPACE}::MaskedAttention"

    @trtp.register(identifier)
    def describe(
        q: trtp.TensorDesc, k: trtp.TensorDesc, v: trtp.TensorDesc, a: trtp.TensorDesc, b: trtp.TensorDesc, scale: float
    ) -> trtp.TensorDesc:
        return q.like()

    @trtp.autotune(identifier)
    def formats(q, k, v, a, b, outputs):
        return _combinations(trtp, "FP16|FP32", 6)

    @trtp.aot_impl(identifier)
    def implement(
        q, k, v, a, b, scale: float, outputs, tactic
    ) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        width, rank = _constant(q.shape_expr[3], "width of a head"), _constant(a.shape_expr[2], "rank of the bias")
        kernel = _kernel(f"masked_attention_{_name(trt, q.dtype)}_{width}")
        constants = kernel["constants"]
        if rank != constants["RANK"] or abs(scale / constants["SCALE"] - 1) > 1e-5:
            raise ValueError(
                f"the kernel of MaskedAttention has rank {constants['RANK']} and scale {constants['SCALE']:.6g}, "
                f"the graph has rank {rank} and scale {scale:.6g}"
            )
        batch, heads, queries, _ = q.shape_expr
        grid = trtp.cdiv(queries, constants["ROWS"]), batch * heads
        return _launch(trtp, kernel, grid, (heads, queries, k.shape_expr[2]))


def _register_hausdorff(trt: Any, trtp: Any) -> None:
    identifier = f"{NAMESPACE}::PixelHausdorff"

    @trtp.register(identifier)
    def describe(fa: trtp.TensorDesc, fb: trtp.TensorDesc, w: trtp.TensorDesc) -> trtp.TensorDesc:
        return trtp.from_shape_expr((fa.shape_expr[0], fa.shape_expr[1], 2), dtype=trt.float32)

    @trtp.autotune(identifier)
    def formats(fa, fb, w, outputs):
        return _combinations(trtp, "FP32", 4)

    @trtp.aot_impl(identifier)
    def implement(fa, fb, w, outputs, tactic) -> tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]:
        kernel = _kernel(f"pixel_hausdorff_{_name(trt, fa.dtype)}")
        batch, rows, channels = fa.shape_expr
        grid = trtp.cdiv(rows, kernel["constants"]["ROWS"]), batch
        return _launch(trtp, kernel, grid, (rows, fb.shape_expr[1], channels))


def _combinations(trtp: Any, types: str, count: int) -> list[Any]:
    """Dense tensors, all of one of `types`."""
    combination = trtp.AutoTuneCombination()
    combination.pos(list(range(count)), types)
    combination.tactics([1])
    return [combination]


def _launch(trtp: Any, kernel: dict[str, Any], grid: tuple[Any, Any], sizes: Sequence[Any]) -> tuple[Any, ...]:
    launch = trtp.KernelLaunchParams()
    launch.grid_x, launch.grid_y = grid
    launch.block_x, launch.shared_mem = 32 * kernel["warps"], kernel["shared"]
    scalars = trtp.SymIntExprs(len(sizes))
    for index, size in enumerate(sizes):
        scalars[index] = trtp.SymInt32(size)
    return kernel["entry"], kernel["ptx"], launch, scalars


@cache
def _kernel(name: str) -> dict[str, Any]:
    launches = json.loads((_FOLDER / "kernels.json").read_text())["kernels"]
    if name not in launches:
        raise ValueError(f"there is no kernel {name}: there are {', '.join(launches)}")
    return {**launches[name], "ptx": (_FOLDER / f"{name}.ptx").read_text()}


def _name(trt: Any, dtype: Any) -> str:
    return {trt.float32: "fp32", trt.float16: "fp16"}[dtype]


def _constant(expression: Any, what: str) -> int:
    if expression.is_fake or not expression.is_constant:
        raise ValueError(f"the {what} must be fixed in the graph")
    return int(expression.constant_value())
