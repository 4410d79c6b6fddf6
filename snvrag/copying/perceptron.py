"""The light network's inner loop, compiled by numba for the CPU, in parallel over rows."""

from typing import Any

import numba
import numpy as np

from snvrag.compiling import compiled as _compiled
from snvrag.copying.describing import is_sure

# Rows that go through a layer together, and those among which they are found.
_ROWS = 128
_BLOCK_ROWS = 4096
_AT_ONCE = 4


@_compiled()
def _gelu(x: Any) -> Any:
    """GELU by tanh, as in torch; tanh as a quotient of polynomials, good to 10⁻⁶ in float32."""
    u = np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)
    u = min(max(u, np.float32(-7.9)), np.float32(7.9))
    v = u * u
    p = np.float32(-2.76076847742355e-16)
    p = p * v + np.float32(2.00018790482477e-13)
    p = p * v + np.float32(-8.60467152213735e-11)
    p = p * v + np.float32(5.12229709037114e-08)
    p = p * v + np.float32(1.48572235717979e-05)
    p = p * v + np.float32(6.37261928875436e-04)
    p = p * v + np.float32(4.89352455891786e-03)
    q = np.float32(1.19825839466702e-06)
    q = q * v + np.float32(1.18534705686654e-04)
    q = q * v + np.float32(2.26843463243900e-03)
    q = q * v + np.float32(4.89352518554385e-03)
    return np.float32(0.5) * x * (np.float32(1.0) + u * p / q)


@_compiled()
def _layer(  # noqa: PLR0912 - a kernel
    x: Any, weight: Any, bias: Any, out: Any, activate: Any
) -> None:
    """``out`` [O, rows] of ``x`` [I, rows]: linear, and GELU if asked for.

    Four outputs and four inputs at a time: what is loaded serves several products.
    """
    n_out, n_in, rows = len(weight), len(x), x.shape[1]
    whole = n_in - n_in % _AT_ONCE
    for first in range(0, n_out - n_out % _AT_ONCE, _AT_ONCE):
        a, b, c, d = out[first], out[first + 1], out[first + 2], out[first + 3]
        wa, wb, wc, wd = weight[first], weight[first + 1], weight[first + 2], weight[first + 3]
        for r in range(rows):
            a[r], b[r] = bias[first], bias[first + 1]
            c[r], d[r] = bias[first + 2], bias[first + 3]
        for i in range(0, whole, _AT_ONCE):
            a0, a1, a2, a3 = wa[i], wa[i + 1], wa[i + 2], wa[i + 3]
            b0, b1, b2, b3 = wb[i], wb[i + 1], wb[i + 2], wb[i + 3]
            c0, c1, c2, c3 = wc[i], wc[i + 1], wc[i + 2], wc[i + 3]
            d0, d1, d2, d3 = wd[i], wd[i + 1], wd[i + 2], wd[i + 3]
            for r in range(rows):
                p, q, s, t = x[i, r], x[i + 1, r], x[i + 2, r], x[i + 3, r]
                a[r] += a0 * p + a1 * q + a2 * s + a3 * t
                b[r] += b0 * p + b1 * q + b2 * s + b3 * t
                c[r] += c0 * p + c1 * q + c2 * s + c3 * t
                d[r] += d0 * p + d1 * q + d2 * s + d3 * t
        for i in range(whole, n_in):
            for r in range(rows):
                value = x[i, r]
                a[r] += wa[i] * value
                b[r] += wb[i] * value
                c[r] += wc[i] * value
                d[r] += wd[i] * value
    for o in range(n_out - n_out % _AT_ONCE, n_out):
        for r in range(rows):
            out[o, r] = bias[o]
        for i in range(n_in):
            for r in range(rows):
                out[o, r] += weight[o, i] * x[i, r]
    if activate:
        for o in range(n_out):
            for r in range(rows):
                out[o, r] = _gelu(out[o, r])


@_compiled()
def _prior(evidence: Any, n_logits: Any) -> Any:
    """The copying model's own logit."""
    mean = np.float32(0.0)
    for i in range(n_logits):
        mean += np.float32(1.0) / (np.float32(1.0) + np.exp(-evidence[i]))
    mean /= np.float32(n_logits)
    return np.float32(np.log(mean / (np.float32(1.0) - mean)))


@_compiled(parallel=True)
def refine_rows(
    features: Any, n_logits: Any, count: Any, nobody: Any, shift: Any, scale: Any, limit: Any,
    low: Any, high: Any, weights: Any, biases: Any, head: Any, head_bias: Any, logits: Any,
) -> None:  # fmt: skip
    """Fill ``logits`` [N] of raw evidence ``features`` [N, F]; the model is LightNetwork's.

    ``weights`` and ``biases`` are tuples, one entry per hidden layer; ``head`` [n_logits + 1, D]
    makes the parts of each single logit and the shift. Where column ``count`` is 0 the answer is
    ``nobody``; where the copying model is sure, the network is not asked.
    """
    n_rows, n_features = features.shape
    widest = n_features
    for weight in weights:
        widest = max(widest, len(weight))
    for block in numba.prange((n_rows + _BLOCK_ROWS - 1) // _BLOCK_ROWS):
        begin, end = block * _BLOCK_ROWS, min(n_rows, (block + 1) * _BLOCK_ROWS)
        asked = np.empty(_BLOCK_ROWS, dtype=np.int64)
        n_asked = 0
        for row in range(begin, end):
            logits[row] = nobody
            if features[row, count] > 0:
                logits[row] = _prior(features[row], n_logits)
                asked[n_asked] = row
                n_asked += not is_sure(features[row], n_logits)
        # Rows beyond the last stay as they were: a fixed width makes the loops fast.
        one = np.zeros((widest, _ROWS), dtype=np.float32)
        other = np.zeros((widest, _ROWS), dtype=np.float32)
        last = np.empty((n_logits + 1, _ROWS), dtype=np.float32)
        trust = np.zeros(_ROWS, dtype=np.float32)
        for first in range(0, n_asked, _ROWS):
            some = asked[first : min(first + _ROWS, n_asked)]
            for r in range(len(some)):
                worst = np.float32(0.0)
                for f in range(n_features):
                    value = features[some[r], f]
                    outside = max(low[f] - value, value - high[f]) * scale[f]
                    worst = max(worst, outside)
                    one[f, r] = min(max((value - shift[f]) * scale[f], -limit), limit)
                trust[r] = min(max(np.float32(2.0) - worst, np.float32(0.0)), np.float32(1.0))
            wide = n_features
            for i in range(len(weights)):
                _layer(one[:wide], weights[i], biases[i], other, True)
                wide = len(weights[i])
                one, other = other, one
            _layer(one[:wide], head, head_bias, last, False)
            for r in range(len(some)):
                row, prior = features[some[r]], logits[some[r]]
                delta = last[n_logits, r]
                for i in range(n_logits):
                    delta += last[i, r] * (row[i] - prior)
                logits[some[r]] = prior + trust[r] * delta
