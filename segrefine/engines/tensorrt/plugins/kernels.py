"""The custom ops as Triton kernels; one source each for every GPU, precision and head width.

Arguments come in the order that TensorRT's ahead-of-time plugins pass them: inputs, sizes, outputs; then constants.
Tensors are dense and row-major. `compile` makes PTX of them; where TRITON_INTERPRET=1 is set before Triton is imported,
they run on a CPU.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import triton
import triton.language as tl

EMPTY = tl.constexpr(65504.0)
_LOG2_E = tl.constexpr(1.4426950408889634)
_FAR = tl.constexpr(1e30)


@triton.jit
def masked_attention(
    q, k, v, a, b, heads, queries, keys, output,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """softmax(SCALE · q kᵀ + a bᵀ) v, ROWS queries of one head at a time (FlashAttention, arXiv 2205.14135).

    The bias has rank RANK and is never written out.

    Args:
        q: (B, heads, queries, WIDTH).
        k: (B, heads, keys, WIDTH).
        v: (B, heads, keys, WIDTH).
        a: (B, queries, RANK).
        b: (B, keys, RANK).
        heads: of each sample.
        queries: of each head.
        keys: of each head.
        output: like q.
        SCALE: of the products.
        WIDTH: of a head.
        RANK: of the bias.
        LOW: a power of two; the first LOW channels are one block of the matrix products, the rest another of HIGH.
        HIGH: a power of two, or 0 where LOW covers all.
        ROWS: queries of a program; grid (⌈queries / ROWS⌉, B · heads).
        COLUMNS: keys of a tile.
    """
    _attend(q, k, v, a, b, q, heads, queries, keys, output, SCALE, WIDTH, RANK, LOW, HIGH, ROWS, COLUMNS, False)


@triton.jit
def sparse_masked_attention(
    q, k, v, a, b, tiles, heads, queries, keys, output,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """`masked_attention` that visits the listed tiles of keys alone; a query that is left without any gives zeros.

    Args, beside those of `masked_attention`:
        tiles: int32 (B, ⌈queries / ROWS⌉, 1 + ⌈keys / COLUMNS⌉): how many tiles of keys a tile of queries visits, then
            which.
    """
    _attend(q, k, v, a, b, tiles, heads, queries, keys, output, SCALE, WIDTH, RANK, LOW, HIGH, ROWS, COLUMNS, True)


@triton.jit
def _attend(
    q, k, v, a, b, tiles, heads, queries, keys, output,
    SCALE: tl.constexpr, WIDTH: tl.constexpr, RANK: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPARSE: tl.constexpr,
):  # fmt: skip
    tile, head = tl.program_id(0), tl.program_id(1).to(tl.int64)
    sample = head // heads
    rows, channels = tile * ROWS + tl.arange(0, ROWS), tl.arange(0, LOW)
    inside = rows < queries
    q_rows, o_rows = q + (head * queries + rows[:, None]) * WIDTH, output + (head * queries + rows[:, None]) * WIDTH
    keep = inside[:, None] & (channels < WIDTH)[None, :]
    q_low = tl.load(q_rows + channels[None, :], mask=keep, other=0.0)
    low = tl.zeros([ROWS, LOW], tl.float32)
    if HIGH > 0:
        rest = LOW + tl.arange(0, HIGH)
        keep_rest = inside[:, None] & (rest < WIDTH)[None, :]
        q_high = tl.load(q_rows + rest[None, :], mask=keep_rest, other=0.0)
        high = tl.zeros([ROWS, HIGH], tl.float32)
    peak, total = tl.full([ROWS], -_FAR, tl.float32), tl.zeros([ROWS], tl.float32)
    count = tl.cdiv(keys, COLUMNS)
    visits = count
    listed = tiles + (sample * tl.cdiv(queries, ROWS) + tile) * (count + 1)
    if SPARSE:
        visits = tl.load(listed)
    for visit in range(0, visits):
        number = visit
        if SPARSE:
            number = tl.load(listed + 1 + visit)
        columns = number * COLUMNS + tl.arange(0, COLUMNS)
        there = columns < keys
        k_rows, v_rows = k + (head * keys + columns[:, None]) * WIDTH, v + (head * keys + columns[:, None]) * WIDTH
        keep_k = there[:, None] & (channels < WIDTH)[None, :]
        k_low = tl.load(k_rows + channels[None, :], mask=keep_k, other=0.0)
        scores = tl.dot(q_low, tl.trans(k_low), input_precision="ieee")
        if HIGH > 0:
            keep_k_rest = there[:, None] & (rest < WIDTH)[None, :]
            k_high = tl.load(k_rows + rest[None, :], mask=keep_k_rest, other=0.0)
            scores = tl.dot(q_high, tl.trans(k_high), scores, input_precision="ieee")
        scores = scores * SCALE
        for term in tl.static_range(RANK):
            a_term = tl.load(a + (sample * queries + rows) * RANK + term, mask=inside, other=0.0).to(tl.float32)
            b_term = tl.load(b + (sample * keys + columns) * RANK + term, mask=there, other=0.0).to(tl.float32)
            scores += a_term[:, None] * b_term[None, :]
        scores = tl.where(there[None, :], scores * _LOG2_E, -float("inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        shrink, weights = tl.exp2(peak - higher), tl.exp2(scores - higher[:, None])
        total, peak = total * shrink + tl.sum(weights, 1), higher
        v_low = tl.load(v_rows + channels[None, :], mask=keep_k, other=0.0)
        low = tl.dot(weights.to(v_low.dtype), v_low, low * shrink[:, None], input_precision="ieee")
        if HIGH > 0:
            v_high = tl.load(v_rows + rest[None, :], mask=keep_k_rest, other=0.0)
            high = tl.dot(weights.to(v_high.dtype), v_high, high * shrink[:, None], input_precision="ieee")
    total = tl.where(total > 0, total, 1.0)[:, None]
    tl.store(o_rows + channels[None, :], (low / total).to(output.dtype.element_ty), mask=keep)
    if HIGH > 0:
        tl.store(o_rows + rest[None, :], (high / total).to(output.dtype.element_ty), mask=keep_rest)


@triton.jit
def pixel_hausdorff(
    fa, fb, w, a_rows, b_rows, channels, output,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Smallest distance from each row of fa to the rows of fb with w > 0.5, and to the others; no matrix of them all.

    Which row is nearest is told by |b|² − 2 a·b; how far it is, by the difference to it: near zero |a|² + |b|² − 2 a·b
    has lost half its digits.

    Args:
        fa: (B, a_rows, channels).
        fb: (B, b_rows, channels).
        w: (B, b_rows).
        a_rows: of each sample.
        b_rows: of each sample.
        channels: of a row.
        output: float32 (B, a_rows, 2); `EMPTY` where there is no such row.
        ROWS: rows of fa in a program; grid (⌈a_rows / ROWS⌉, B).
        COLUMNS: rows of fb that are compared at a time.
        DEPTH: channels that are multiplied at a time.
    """
    sample = tl.program_id(1).to(tl.int64)
    rows, depth = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, DEPTH)
    inside = rows < a_rows
    a_start, b_start = fa + (sample * a_rows + rows[:, None]) * channels, fb + sample * b_rows * channels
    least_1, least_0 = tl.full([ROWS], _FAR, tl.float32), tl.full([ROWS], _FAR, tl.float32)
    nearest_1, nearest_0 = tl.zeros([ROWS], tl.int32), tl.zeros([ROWS], tl.int32)
    for first in range(0, b_rows, COLUMNS):
        columns = first + tl.arange(0, COLUMNS)
        there = columns < b_rows
        product, length = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([COLUMNS], tl.float32)
        for start in range(0, channels, DEPTH):
            taken = (start + depth) < channels
            x = tl.load(a_start + start + depth[None, :], mask=inside[:, None] & taken[None, :], other=0.0)
            y_rows = b_start + columns[:, None] * channels + start
            y = tl.load(y_rows + depth[None, :], mask=there[:, None] & taken[None, :], other=0.0)
            product = tl.dot(x, tl.trans(y), product, input_precision="ieee")
            wide = y.to(tl.float32)
            length += tl.sum(wide * wide, 1)
        order = length[None, :] - 2.0 * product
        share = tl.load(w + sample * b_rows + columns, mask=there, other=0.0).to(tl.float32)
        order_1 = tl.where((there & (share > 0.5))[None, :], order, _FAR)
        order_0 = tl.where((there & (share <= 0.5))[None, :], order, _FAR)
        best_1, best_0 = tl.min(order_1, 1), tl.min(order_0, 1)
        nearest_1 = tl.where(best_1 < least_1, first + tl.argmin(order_1, 1).to(tl.int32), nearest_1)
        nearest_0 = tl.where(best_0 < least_0, first + tl.argmin(order_0, 1).to(tl.int32), nearest_0)
        least_1, least_0 = tl.minimum(least_1, best_1), tl.minimum(least_0, best_0)
    gap_1, gap_0 = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for start in range(0, channels, DEPTH):
        taken = inside[:, None] & ((start + depth) < channels)[None, :]
        x = tl.load(a_start + start + depth[None, :], mask=taken, other=0.0).to(tl.float32)
        at = start + depth[None, :]
        y_1 = tl.load(b_start + nearest_1[:, None].to(tl.int64) * channels + at, mask=taken, other=0.0).to(tl.float32)
        y_0 = tl.load(b_start + nearest_0[:, None].to(tl.int64) * channels + at, mask=taken, other=0.0).to(tl.float32)
        gap_1 += tl.sum((x - y_1) * (x - y_1), 1)
        gap_0 += tl.sum((x - y_0) * (x - y_0), 1)
    to_1 = tl.where(least_1 < _FAR, tl.sqrt(gap_1), EMPTY)
    to_0 = tl.where(least_0 < _FAR, tl.sqrt(gap_0), EMPTY)
    found = output + (sample * a_rows + rows) * 2
    tl.store(found, to_1.to(output.dtype.element_ty), mask=inside)
    tl.store(found + 1, to_0.to(output.dtype.element_ty), mask=inside)
