"""Error bounds of the ops, one place, each with its reason.

All are elementwise and hold with a wide margin for random data; a wrong element, block or row
breaks them.
"""

import numpy as np

EPS = float(np.finfo(np.float32).eps)


def dot(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Float32 dot products of length k in any order: c * eps * sqrt(k) * norms, c = 2.

    Args:
        x: `[n, k]`, w: `[rows, k]`.

    Returns:
        `[n, rows]`.
    """
    k = x.shape[1]
    norms = np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1))
    return 2 * EPS * np.sqrt(k) * norms + 1e-37


def bf16_activation(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Activations rounded to bfloat16: eight significant bits, so each is off by 2^-8 at most.

    On average its square is a third of that; k such errors add up like a random walk, of which
    six deviations are allowed.
    """
    walk = np.sqrt((x**2) @ (w**2).T / 3)
    worst = np.abs(x) @ np.abs(w).T
    return 2.0**-8 * np.minimum(6 * walk, worst)


def q8_activation(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Activations rounded to 8 bits per block of 32.

    A code is off by half a step of amax/127, at most amax/254 and on average its square is
    (amax/127)^2/12; k such errors add up like a random walk, of which six deviations are allowed.
    The block's scale may itself be a half: 2^-11 of each product besides.
    """
    n, k = x.shape
    blocks = np.pad(np.abs(x), ((0, 0), (0, -k % 32))).reshape(n, -1, 32)
    step = np.repeat(blocks.max(axis=2), 32, axis=1)[:, :k] / 127
    walk = np.sqrt((step**2) @ (w**2).T / 12)
    worst = step @ np.abs(w).T / 2
    scale = 2.0**-11 * np.abs(x) @ np.abs(w).T
    return np.minimum(6 * walk, worst) + scale


def matmul(x: np.ndarray, w: np.ndarray, dtype: str) -> np.ndarray:
    """What a product with weights stored as `dtype` may be off by, `[n, rows]`."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    if dtype in ("f32", "f16"):
        return dot(x, w)
    if dtype == "bf16":
        return dot(x, w) + bf16_activation(x, w)
    return dot(x, w) + q8_activation(x, w)
