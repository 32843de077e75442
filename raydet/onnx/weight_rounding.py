"""Weights whose products no x86 CPU cuts off: INT8 files that compute the same with VNNI and without.

Where a CPU saturates, and at what, says `raydet.onnx.saturation`. `fit_pairs` makes every pair of neighbouring weights
fit: a channel that has a larger one gets coarser steps, or the pair is clipped, whichever changes its weights least.
Weights of coarser steps are rounded again, and each one's error is made up for by those that follow (GPTQ, Frantar et
al. 2022, arXiv:2210.17323), as far as the layer's inputs on the calibration batches are correlated. That halves the
error of the fitted layers' outputs: .25 instead of .46 % rms in a demo classifier.

Chosen for speed on both kinds of CPU; figures in docs/benchmarks/quantization_epyc-2core_2026-11-30.md. Given up:

- uint8 weights (`session.x64quantprecision=1` makes them, and fails on our graphs): exact too, without any change of a
  weight, but slower on AVX2, and VNNI has no such instruction;
- 7 bits for all weights (`reduce_range`): twice the step everywhere, where a third more is enough.

M output channels, R those of them that are changed, K products of a sum (rows, columns, input channels of a kernel),
P pairs.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raydet.onnx.graph import Array, Graph, attribute
from raydet.onnx.saturation import PAIR_LIMIT, by_channel, int8_layers, neighbours

_GROWTHS = np.linspace(1.04, 2.0, 25)
"""By how much a channel's steps may grow. At 2 no level exceeds 64, so every pair fits."""
_DAMPING = 0.01
"""Share of the inputs' mean square that is added to each one's, as in GPTQ: few batches leave some unknown."""
_BLOCK = 128
"""Weights of a channel after which the others are brought up to date, for speed only. Even."""


def fit_weights(graph: Graph, grams: Mapping[str, Array]) -> None:
    """Change the int8 weights of `graph` so that no pair of products saturates; their scales follow.

    Args:
        grams: by the name of a layer's weights, gram_KK (see `fit_pairs`); of pointwise layers, those that are known.
    """
    fitted: dict[str, tuple[str, Array]] = {}
    for node, dequantize, levels in list(int8_layers(graph)):
        name = dequantize.input[0]
        if name not in fitted:  # a head's weights serve all levels of the pyramid, each with scales of its own
            levels_MK = by_channel(node, levels)
            pairs = [neighbours(levels_MK)]
            if node.op_type == "Conv" and levels.shape[1] == 3:
                # An image may get a fourth channel of zeros (`raydet.onnx.onnxruntime_int8`): blue then has the pair
                # for itself.
                pairs.append(np.arange(levels_MK.shape[1]).reshape(-1, 3)[:, :2])
            levels_MK, growth_M = fit_pairs(levels_MK, pairs, grams.get(name))
            fitted[name] = graph.constant(_as_stored(node, levels_MK, levels.shape)), growth_M
        dequantize.input[0], growth_M = fitted[name]
        scale = graph.constants[dequantize.input[1]]
        dequantize.input[1] = graph.constant((scale * growth_M).astype(np.float32))


def fit_pairs(levels_MK: Array, pairs: list[Array], gram_KK: Array | None = None) -> tuple[Array, Array]:
    """Return int8 levels_MK without a pair that saturates, and float64 growth_M, 1 to 2: new steps are so much larger.

    Of all growths the one that changes a channel's weights least, in the sum of squares.

    Args:
        levels_MK: int8, weight / step.
        pairs: indices_P2 into K; several arrays where kernels pair the weights in several ways.
        gram_KK: sum of x xᵀ over the layer's inputs x_K, by which errors are made up for; then `pairs` must be
            `neighbours`.
    """
    best_MK, growth_M = _clipped(levels_MK.astype(np.float32), pairs), np.ones(len(levels_MK))
    error_M = ((best_MK - levels_MK) ** 2).sum(1)
    large_R = np.flatnonzero(error_M)  # the others are as they should be
    wanted_RK = levels_MK[large_R].astype(np.float32)
    for growth in _GROWTHS:
        found_RK = _clipped(np.rint(wanted_RK / growth), pairs)
        error_R = ((found_RK * growth - wanted_RK) ** 2).sum(1)
        better_R = error_R < error_M[large_R]
        rows = large_R[better_R]
        best_MK[rows], error_M[rows], growth_M[rows] = found_RK[better_R], error_R[better_R], growth
    if gram_KK is not None and len(large_R):
        growth_R1 = growth_M[large_R, None]
        plain_RK, fed_RK = best_MK[large_R], _with_error_feedback(wanted_RK / growth_R1, gram_KK)
        plain_R, fed_R = (_output_error(q_RK - wanted_RK / growth_R1, gram_KK) for q_RK in (plain_RK, fed_RK))
        best_MK[large_R] = np.where((fed_R < plain_R)[:, None], fed_RK, plain_RK)
    return best_MK.astype(np.int8), growth_M


def _with_error_feedback(wanted_RK: Array, gram_KK: Array) -> Array:
    """Return the levels of GPTQ: weights are rounded one after the other, and the next ones make up for the error."""
    wanted_RK, size = wanted_RK.copy(), len(gram_KK)
    damped_KK = gram_KK + np.eye(size) * (_DAMPING * np.trace(gram_KK) / size + 1e-12)
    upper_KK = np.linalg.cholesky(np.linalg.inv(damped_KK)).T
    levels_RK, error_RK = np.zeros_like(wanted_RK), np.zeros_like(wanted_RK)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        for k in range(start, stop):
            partner_R = levels_RK[:, k - 1] if k % 2 else 0
            low_R, high_R = np.maximum(-PAIR_LIMIT - partner_R, -128), np.minimum(PAIR_LIMIT - partner_R, 127)
            levels_RK[:, k] = np.clip(np.rint(wanted_RK[:, k]), low_R, high_R)
            error_RK[:, k] = (wanted_RK[:, k] - levels_RK[:, k]) / upper_KK[k, k]
            wanted_RK[:, k + 1 : stop] -= error_RK[:, k, None] * upper_KK[k, k + 1 : stop]
        wanted_RK[:, stop:] -= error_RK[:, start:stop] @ upper_KK[start:stop, stop:]
    return levels_RK


def _output_error(error_RK: Array, gram_KK: Array) -> Array:
    """Return the sum of squares of what weights that are so far off change in a layer's outputs, for each channel."""
    squares_R: Array = ((error_RK @ gram_KK) * error_RK).sum(1)
    return squares_R


def _clipped(levels_MK: Array, pairs: list[Array]) -> Array:
    """Return the levels with every pair cut to PAIR_LIMIT, half of the rest from each, the larger first."""
    levels_MK = levels_MK.copy()
    for first_P, second_P in (pairs_P2.T for pairs_P2 in pairs):
        a_MP, b_MP = levels_MK[:, first_P], levels_MK[:, second_P]
        total_MP = a_MP + b_MP
        over_MP = np.maximum(np.abs(total_MP) - PAIR_LIMIT, 0)
        larger_MP = np.abs(a_MP) >= np.abs(b_MP)
        most_MP, least_MP = np.ceil(over_MP / 2), np.floor(over_MP / 2)
        sign_MP = np.sign(total_MP)
        levels_MK[:, first_P] = a_MP - sign_MP * np.where(larger_MP, most_MP, least_MP)
        levels_MK[:, second_P] = b_MP - sign_MP * np.where(larger_MP, least_MP, most_MP)
    return levels_MK


def _as_stored(node: Any, levels_MK: Array, shape: tuple[int, ...]) -> Array:
    if node.op_type == "Conv":
        out, channels, rows, columns = shape
        levels_MK = levels_MK.reshape(out, rows, columns, channels).transpose(0, 3, 1, 2)
    elif not attribute(node, "transB", 0):
        levels_MK = levels_MK.T
    return np.ascontiguousarray(levels_MK)
