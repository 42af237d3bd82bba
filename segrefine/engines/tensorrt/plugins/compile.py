"""Compile the kernels to PTX, without a GPU.

`python -m segrefine.engines.tensorrt.plugins.compile` writes the files that ship. Its arguments are another folder
to write to and the architectures to check for.

One text works on every GPU from compute capability 8.0 on: the driver compiles it for the GPU that it finds. `ptxas`
checks here that this is possible for each of `ARCHITECTURES`. This needs Triton; running an engine does not.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from segrefine.engines.tensorrt.plugins import kernels

FOLDER = Path(__file__).with_name("ptx")
ARCHITECTURES = tuple(f"sm_{each}" for each in (80, 86, 87, 89, 90, 100, 103, 110, 120, 121))
"""Ampere (8.7 is Jetson Orin), Ada, Hopper, Blackwell (11.0 is Jetson Thor)."""

WIDTHS = (32, 40, 64, 80, 96, 128, 160)
RANK = 2
MOST_SHARED = 48 << 10
"""Bytes of shared memory that a kernel may have on every GPU without asking the driver for more."""
MOST_REGISTERS, MOST_SPILLED = 255, 64
"""Registers of a thread, and bytes that may go to memory for want of them."""

_CAPABILITY, _ISA = 80, 80


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One compiled form of a kernel.

    Attributes:
        name: of its file.
        function: the kernel.
        types: of the arguments that are no constants, in their order: Triton's names.
        constants: the others.
        warps: of a program.
        stages: of the pipelined loop.
        ships: a plugin launches it; others are compiled and checked alone.
    """

    name: str
    function: Any
    types: tuple[str, ...]
    constants: Mapping[str, Any]
    warps: int = 4
    stages: int = 2
    ships: bool = True


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """A kernel as PTX, and how it is launched.

    Attributes:
        entry: name of the kernel in the text: the variant's, so that no two kernels of one engine share a name.
        warps: of a program.
        shared: bytes of shared memory.
        constants: what it was compiled with.
        ptx: the text.
    """

    entry: str
    warps: int
    shared: int
    constants: Mapping[str, Any]
    ptx: str


def split_width(width: int) -> tuple[int, int]:
    """Two powers of two that cover a head of `width` channels, the second 0 where one does as well."""
    low = 1 << (width.bit_length() - 1)
    high = max(16, 1 << (width - low - 1).bit_length())
    if low == width:
        return low, 0
    return (low, high) if high < low else (2 * low, 0)


def list_variants() -> Iterator[Variant]:
    """Every kernel that is checked; what `ships` of it is in the package."""
    for dtype in ("fp16", "fp32"):
        for width in WIDTHS:
            yield attention_variant(dtype, width, sparse=False)
            yield attention_variant(dtype, width, sparse=True)
        yield hausdorff_variant(dtype)


def attention_variant(dtype: str, width: int, *, sparse: bool, rank: int = RANK) -> Variant:
    """`masked_attention` for heads of one width, on tiles that fit the shared memory."""
    low, high = split_width(width)
    tensor = f"*{dtype}"
    wide = width > 64
    rows, columns = (64, 32 if wide else 64) if dtype == "fp16" else (32, 16 if wide else 32)
    constants = {"SCALE": width**-0.5, "WIDTH": width, "RANK": rank, "LOW": low, "HIGH": high}
    return Variant(
        name=f"masked_attention_{dtype}_{width}{'_sparse' if sparse else ''}",
        function=kernels.sparse_masked_attention if sparse else kernels.masked_attention,
        types=(tensor,) * 5 + (("*i32",) if sparse else ()) + ("i32", "i32", "i32", tensor),
        constants=constants | {"ROWS": rows, "COLUMNS": columns},
        warps=8 if width > 128 else 4,
        ships=not sparse,
    )


def hausdorff_variant(dtype: str) -> Variant:
    """`pixel_hausdorff`, on blocks that fit the registers."""
    return Variant(
        name=f"pixel_hausdorff_{dtype}",
        function=kernels.pixel_hausdorff,
        types=(f"*{dtype}", f"*{dtype}", "*fp32", "i32", "i32", "i32", "*fp32"),
        constants={"ROWS": 64, "COLUMNS": 64, "DEPTH": 32},
        warps=8,
        ships=dtype == "fp32",
    )


def compile_variant(variant: Variant) -> Compiled:
    """The variant as PTX that takes the declared arguments alone.

    Raises:
        ValueError: it needs more shared memory than every GPU has, or memory that nobody would give it.
    """
    names = variant.function.arg_names
    signature = dict.fromkeys(names, "constexpr") | dict(zip(names, variant.types, strict=False))
    pointers = [index for index, kind in enumerate(variant.types) if kind.startswith("*")]
    source = ASTSource(
        fn=variant.function,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(index,): [["tt.divisibility", 16]] for index in pointers},
    )
    options = {"num_warps": variant.warps, "num_stages": variant.stages, "ptx_version": _ISA}
    options["enable_fp_fusion"] = True
    triton.knobs.compilation.disable_line_info = True
    built = triton.compile(source, target=GPUTarget("cuda", _CAPABILITY, 32), options=options)
    if built.metadata.shared > MOST_SHARED:
        raise ValueError(f"{variant.name} needs {built.metadata.shared} bytes of shared memory, at most {MOST_SHARED}")
    text = _drop_hidden(built.asm["ptx"], len(variant.types))
    return Compiled(
        entry=variant.name,
        warps=variant.warps,
        shared=built.metadata.shared,
        constants=variant.constants,
        ptx=re.sub(rf"\b{built.metadata.name}\b", variant.name, text),
    )


def _drop_hidden(ptx: str, count: int) -> str:
    """The text without the parameters that Triton adds after its own `count`, which nothing reads."""
    found = re.search(r"\.visible \.entry \w+\((.*?)\n?\)", ptx, re.DOTALL)
    assert found is not None
    parameters = found[1].split(",")
    for hidden in parameters[count:]:
        name = hidden.split()[-1]
        if len(re.findall(rf"\b{name}\b", ptx)) > 1:
            raise ValueError(f"the kernel reads its hidden parameter {name}")
    return ptx[: found.start(1)] + ",".join(parameters[:count]) + ptx[found.end(1) :]


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Resources of a GPU's multiprocessor that a kernel takes.

    Attributes:
        registers: of each thread.
        spilled: bytes that each thread writes to memory because its registers are full.
    """

    registers: int
    spilled: int


def check_ptx(ptx: str, architecture: str) -> Usage:
    """Compile PTX for one GPU architecture, and return what the kernel takes there.

    Raises:
        ValueError: `ptxas` refuses the text, or the kernel takes more than `MOST_REGISTERS` or `MOST_SPILLED`.
    """
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    tool = tools / ("ptxas-blackwell" if int(architecture.removeprefix("sm_")) >= 100 else "ptxas")
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "kernel.ptx"
        text.write_text(ptx)
        command = [str(tool), "-v", f"-arch={architecture}", str(text), "-o", str(text.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"ptxas refuses the kernel for {architecture}: {done.stderr.strip()}")
    registers, spilled = (
        max(map(int, re.findall(pattern, done.stderr))) for pattern in (r"Used (\d+) reg", r"(\d+) bytes spill stores")
    )
    if registers > MOST_REGISTERS or spilled > MOST_SPILLED:
        raise ValueError(
            f"the kernel takes {registers} registers and spills {spilled} bytes on {architecture}; "
            f"at most {MOST_REGISTERS} and {MOST_SPILLED} are allowed"
        )
    return Usage(registers=registers, spilled=spilled)


def write_kernels(folder: Path, architectures: Sequence[str] = ARCHITECTURES) -> int:
    """Check every variant; write those that ship to `folder`, and `kernels.json` with how each of them is launched.

    Args:
        folder: made where it does not exist.
        architectures: what `ptxas` compiles for.

    Returns:
        Bytes of the written texts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    launches, size = {}, 0
    for variant in list_variants():
        compiled = compile_variant(variant)
        usages = [check_ptx(compiled.ptx, architecture) for architecture in architectures]
        registers, spilled = max(each.registers for each in usages), max(each.spilled for each in usages)
        print(
            f"{variant.name}: {len(compiled.ptx)} bytes, shared memory {compiled.shared}, "
            f"at most {registers} registers, {spilled} bytes spilled",
            flush=True,
        )
        if not variant.ships:
            continue
        (folder / f"{variant.name}.ptx").write_text(compiled.ptx)
        launches[variant.name] = {name: value for name, value in asdict(compiled).items() if name != "ptx"}
        size += len(compiled.ptx)
    content = {"triton": triton.__version__, "kernels": launches}
    (folder / "kernels.json").write_text(json.dumps(content, indent=1) + "\n")
    return size


if __name__ == "__main__":
    asked = sys.argv[2:] or ARCHITECTURES
    total = write_kernels(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER, asked)
    print(f"{total / 1e3:.0f} kB of PTX, accepted by ptxas for {', '.join(asked)}")
