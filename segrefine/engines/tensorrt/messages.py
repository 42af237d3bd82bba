"""Plain explanations of the failures of TensorRT's builder, with their remedies."""

from __future__ import annotations

import re

_CAUSES: tuple[tuple[str, str, str], ...] = (
    (
        r"within workspace limit",
        "an operator needs more scratch memory than --workspace allows",
        "leave --workspace out, or give more",
    ),
    (
        r"is no timing cache",
        "the file of --timing-cache is no timing cache of this library",
        "name a file that is not there yet",
    ),
    (
        r"out of (?:host |device )?memory|OutOfMemory|bad_alloc|could not find any implementation|insufficient memory",
        "the builder ran out of memory",
        "give it less to try: --optimization-level 1, smaller --max-shapes; or more --workspace, if that was given",
    ),
    (
        r"parsing node number \d+ \[(?P<what>[^\]]+)\](?s:.)*(?:plugin not found|no importer registered|unsupported)",
        "the library has no operator for the node {what}",
        "export the bundle again with this version of segrefine, or take another backend",
    ),
    (
        r"(?P<what>[^\n]*(?:kMIN|kMAX|optimization profile|profile dimension|dimension mismatch)[^\n]*)",
        "the shapes do not fit the graph: {what}",
        "smaller or larger --min-shapes, --opt-shapes, --max-shapes; height and width are those of latents",
    ),
    (
        r"CUDA (?:initialization failure|error|driver)[^\n]*(?P<what>\d+)",
        "CUDA does not answer (error {what})",
        "TensorRT builds on the machine with the GPU; --backend tensorrt-rtx with --compute-capability builds anywhere",
    ),
)


def explain_failure(output: str, status: int) -> tuple[str, str]:
    """Explain a failed build, and the remedy.

    Args:
        output: everything that the builder's process said.
        status: its exit status; negative where a signal ended it.
    """
    for pattern, message, hint in _CAUSES:
        if found := re.search(pattern, output, re.IGNORECASE):
            what = (found.groupdict().get("what") or "").strip()
            return message.format(what=what), hint
    if status < 0:
        hint = "a kill by the system means too little memory: build fewer --components at once, or smaller --max-shapes"
        return f"its process was ended by signal {-status}", hint
    errors = [line for line in output.splitlines() if line.startswith(("[E]", "[!]"))]
    said = errors[0][4:].strip() if errors else output.strip().rpartition("\n")[2].removeprefix("failed: ")
    return said or "the builder said nothing", "-v shows all that it said"
