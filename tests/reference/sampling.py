"""The sampling rules once more, written from their sources with sorting and float64.

Nothing here looks at the native code: rules as in transformers' logits processors (repetition,
top-k, typical-p, min-p), the OpenAI API (presence, frequency) and Meta's llama (top-p).
"""

from __future__ import annotations

import numpy as np


def softmax(scores):
    finite = scores[np.isfinite(scores)]
    exps = np.exp(scores - finite.max())
    return exps / exps.sum()


def ranked(keys):
    """Places by falling key, of equal keys the lower place first."""
    return np.argsort(-keys, kind="stable")


def distribution(
    logits,
    *,
    temperature=0.8,
    top_k=0,
    top_p=0.95,
    min_p=0.0,
    typical_p=1.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    logit_bias=None,
    prompt=(),
    generated=(),
):
    """Probability of every token, float64 `[vocab]`; exactly 0 where it cannot be sampled."""
    scores = np.asarray(logits, np.float64).copy()
    scores[np.isnan(scores)] = -np.inf
    for token, bias in (logit_bias or {}).items():
        scores[token] += bias
    for token in {*prompt, *generated}:
        score = scores[token]
        scores[token] = score * repetition_penalty if score < 0 else score / repetition_penalty
    for token in set(generated):
        scores[token] -= presence_penalty + frequency_penalty * list(generated).count(token)
    if temperature == 0:
        result = np.zeros_like(scores)
        result[np.argmax(scores)] = 1
        return result
    scores /= temperature
    if 0 < top_k < len(scores):
        scores[scores < np.sort(scores)[-top_k]] = -np.inf
    if typical_p < 1:
        scores = typical(scores, typical_p)
    if top_p < 1:
        p = softmax(scores)
        order = ranked(p)
        before = np.cumsum(p[order]) - p[order]
        # Equality, up to the rounding of these sums, stays.
        scores[order[before > top_p * (1 + 1e-9)]] = -np.inf
    if min_p > 0:
        p = softmax(scores)
        scores[p < min_p * p.max()] = -np.inf
    return softmax(scores)


def typical(scores, mass):
    """transformers' TypicalLogitsWarper, with one token at the least."""
    p = softmax(scores)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(p)
        entropy = -np.nansum(p * log_p)
    distance = np.abs(-log_p - entropy)
    order = np.argsort(distance, kind="stable")
    reached = np.cumsum(p[order])
    last = min(int((reached < mass).sum()), len(scores) - 1)
    kept = scores.copy()
    kept[distance > distance[order[last]]] = -np.inf
    return kept


def philox_words(key, counter):
    """Philox4x32-10 of a 64-bit key and counter: four 32-bit words (Salmon et al., SC11)."""
    mask = 0xFFFFFFFF
    k = [key & mask, key >> 32]
    c = [counter & mask, counter >> 32, 0, 0]
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) & mask, (k[1] + 0xBB67AE85) & mask]
    return c


def uniform(seed, index):
    """The random number in [0, 1) of a request's `index`-th sample."""
    words = philox_words(seed, index)
    return ((words[1] << 32 | words[0]) >> 11) / 2**53
