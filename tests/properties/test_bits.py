"""Same question, same bits: whatever the threads, the run, the chunks or the company."""

from functools import cache

import numpy as np
import pytest

from llama_rt import _native
from native_models import build_runner, logits, stored_as
from reference.model import Config, random_weights

ISA_LEVELS = _native.cpu_info().tiers
DTYPES = ["f32", "f16", "bf16", "q4_0", "q8_0", "q4_k", "q6_k"]
KV_DTYPES = ["f32", "f16", "bf16", "q8_0"]
CONFIG = Config(dim=256, n_heads=8, n_kv_heads=2, head_dim=32, ffn_dim=512, vocab_size=320)
IDS = np.random.default_rng(3).integers(0, 320, 150).astype(np.int32)


@cache
def model_of(dtype):
    return stored_as(CONFIG, dtype, seed=7)


def runner_of(dtype="q4_0", **options):
    weights, stored = model_of(dtype)
    return build_runner(CONFIG, weights, stored=stored, **{"kv_dtype": "f16", **options})


def in_pieces(runner, ids, lengths):
    """All logits of `ids`, fed in pieces of the given lengths."""
    sequence, at, rows = runner.create(), 0, []
    for length in lengths:
        piece = ids[at : at + length]
        rows.append(runner.forward([sequence], [piece], outputs="all"))
        at += length
    assert at == len(ids)
    runner.release(sequence)
    return np.concatenate(rows)


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_and_runs(dtype, isa):
    results = [logits(runner_of(dtype, isa=isa, threads=t), IDS) for t in (1, 2, 3, 1)]
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    again = runner_of(dtype, isa=isa)
    np.testing.assert_array_equal(logits(again, IDS), results[0])
    np.testing.assert_array_equal(logits(again, IDS), results[0])


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks(dtype, isa):
    runner = runner_of(dtype, isa=isa)
    whole = logits(runner, IDS)
    for lengths in ([1] * 20 + [130], [64, 64, 22], [7, 1, 92, 50], [149, 1]):
        np.testing.assert_array_equal(in_pieces(runner, IDS, lengths), whole, err_msg=str(lengths))


@pytest.mark.parametrize("kv_dtype", KV_DTYPES)
def test_chunks_with_every_cache_type(kv_dtype):
    runner = runner_of("f16", kv_dtype=kv_dtype)
    whole = logits(runner, IDS)
    for lengths in ([1] * 70 + [80], [63, 2, 63, 22]):
        np.testing.assert_array_equal(in_pieces(runner, IDS, lengths), whole)


@pytest.mark.parametrize("limit", [1, 7, 64])
def test_a_small_workspace_gives_the_same(limit):
    """Prompts longer than `max_batch_tokens` are fed in pieces of it."""
    expected = logits(runner_of(max_batch_tokens=512), IDS)
    runner = runner_of(max_batch_tokens=limit)
    lengths = [limit] * (len(IDS) // limit)
    if len(IDS) % limit:
        lengths.append(len(IDS) % limit)
    np.testing.assert_array_equal(in_pieces(runner, IDS, lengths), expected)


@pytest.mark.parametrize("isa", ISA_LEVELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "q4_0", "q6_k"])
def test_company(dtype, isa):
    """A sequence has the bits it has alone, in any batch, prompts and single tokens mixed."""
    runner = runner_of(dtype, isa=isa)
    prompts = [IDS[:40], IDS[50:51], IDS[60:77], IDS[80:145]]
    alone = [logits(runner, p) for p in prompts]
    sequences = [runner.create() for _ in prompts]
    rows = runner.forward(sequences, prompts, outputs="all")
    np.testing.assert_array_equal(rows, np.concatenate(alone))
    # One decodes while another's next chunk comes in.
    mixed = runner.forward(sequences[:2], [IDS[40:41], IDS[51:90]], outputs="all")
    np.testing.assert_array_equal(mixed[0], logits(runner, IDS[:41])[-1])
    np.testing.assert_array_equal(mixed[1:], logits(runner, IDS[50:90])[1:])


@pytest.mark.parametrize("at", [1, 10, 63, 64, 65, 100])
@pytest.mark.parametrize("kv_dtype", ["f16", "q8_0"])
def test_forks_go_their_own_way(kv_dtype, at):
    runner = runner_of("f16", kv_dtype=kv_dtype)
    parent = runner.create()
    runner.forward([parent], [IDS[:100]], outputs="none")
    child = runner.fork(parent, at)
    a, b = IDS[100:120], IDS[120:150]
    rows = runner.forward([child, parent], [b, a], outputs="all")
    expected_child = logits(runner, np.concatenate([IDS[:at], b]))[at:]
    expected_parent = logits(runner, IDS[:120])[100:]
    np.testing.assert_array_equal(rows, np.concatenate([expected_child, expected_parent]))


def test_forks_outlive_their_parent():
    runner = runner_of()
    parent = runner.create()
    runner.forward([parent], [IDS[:90]], outputs="none")
    child, other = runner.fork(parent, 80), runner.fork(parent, 90)
    runner.release(parent)
    unrelated = runner.create()
    runner.forward([unrelated], [IDS[40:140]], outputs="none")
    got = runner.forward([child, other], [IDS[80:85], IDS[90:91]], outputs="all")
    np.testing.assert_array_equal(got[:5], logits(runner, IDS[:85])[80:])
    np.testing.assert_array_equal(got[5], logits(runner, IDS[:91])[90])


@pytest.mark.parametrize("at", [0, 1, 63, 64, 65, 99])
def test_truncating_forgets(at):
    runner = runner_of()
    sequence = runner.create()
    runner.forward([sequence], [IDS[50:150]], outputs="none")
    runner.truncate(sequence, at)
    got = runner.forward([sequence], [IDS[:30]], outputs="all")
    expected = logits(runner, np.concatenate([IDS[50 : 50 + at], IDS[:30]]))[at:]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("at", [30, 64, 70])
@pytest.mark.parametrize("cut", ["parent", "child"])
def test_writing_into_a_shared_page_leaves_the_other(cut, at):
    """Cut back into what both share, then go on: the other must not see it."""
    runner = runner_of()
    parent = runner.create()
    runner.forward([parent], [IDS[:100]], outputs="none")
    child = runner.fork(parent, 100)
    shortened, whole = (parent, child) if cut == "parent" else (child, parent)
    runner.truncate(shortened, at)
    own = runner.forward([shortened], [IDS[105:150]], outputs="all")
    got = runner.forward([whole], [IDS[100:110]], outputs="all")
    np.testing.assert_array_equal(got, logits(runner, IDS[:110])[100:])
    expected = logits(runner, np.concatenate([IDS[:at], IDS[105:150]]))[at:]
    np.testing.assert_array_equal(own, expected)


def test_both_may_go_on_in_a_shared_page_at_once():
    runner = runner_of()
    parent = runner.create()
    runner.forward([parent], [IDS[:64]], outputs="none")
    child = runner.fork(parent, 64)
    for sequence in (parent, child):
        runner.truncate(sequence, 20)
    rows = runner.forward([parent, child], [IDS[20:30], IDS[90:110]], outputs="all")
    other = logits(runner, np.concatenate([IDS[:20], IDS[90:110]]))[20:]
    np.testing.assert_array_equal(rows, np.concatenate([logits(runner, IDS[:30])[20:], other]))


def test_sequences_in_random_order():
    """A seeded walk of all operations; every forward is compared with a fresh computation."""
    runner = runner_of("f32", cache_tokens=4096)
    fresh = runner_of("f32")
    rng = np.random.default_rng(5)
    held: dict[int, list[int]] = {}
    for _ in range(60):
        action = rng.choice(["feed", "feed", "feed", "create", "fork", "truncate", "release"])
        if not held or (action == "create" and len(held) < 6):
            held[runner.create()] = []
            continue
        one = int(rng.choice(list(held)))
        length = int(rng.integers(0, len(held[one]) + 1))
        if action == "fork" and len(held) < 6:
            held[runner.fork(one, length)] = held[one][:length]
        elif action == "truncate":
            runner.truncate(one, length)
            del held[one][length:]
        elif action == "release":
            runner.release(one)
            del held[one]
        else:
            some = [s for s in held if s == one or rng.random() < 0.3]
            tokens = [rng.integers(0, 320, int(rng.integers(1, 40))).astype(np.int32) for _ in some]
            some, tokens = zip(
                *((s, t) for s, t in zip(some, tokens, strict=True) if len(held[s]) < 200),
                strict=True,
            )
            rows = runner.forward(list(some), list(tokens), outputs="last")
            for row, s, t in zip(rows, some, tokens, strict=True):
                held[s] += t.tolist()
                np.testing.assert_array_equal(row, logits(fresh, held[s])[-1])
        for s, ids in held.items():
            assert runner.length(s) == len(ids)


@pytest.mark.parametrize("dtype", ["f32", "q4_0"])
def test_the_native_loop_is_forward_and_argmax(dtype):
    runner = runner_of(dtype)
    prompts = [IDS[:30], IDS[70:73]]
    expected = []
    for prompt in prompts:
        ids = prompt.tolist()
        for _ in range(12):
            ids.append(int(np.argmax(logits(runner, ids)[-1])))
        expected.append(ids[len(prompt) :])
    sequences = [runner.create() for _ in prompts]
    samplers = [_native.Sampler(320, temperature=0.0) for _ in prompts]
    first = runner.step(sequences, prompts, samplers)
    rest = runner.decode(sequences, [s.tokens[-1] for s in first], samplers, steps=11)
    got = [a.tokens + b.tokens for a, b in zip(first, rest, strict=True)]
    assert got == expected
    assert [runner.length(s) for s in sequences] == [30 + 11, 3 + 11]


@pytest.mark.parametrize("repack", ["never", "always"])
def test_packing_has_its_own_bits_on_any_threads(repack):
    weights = random_weights(CONFIG, seed=1)
    results = [
        logits(build_runner(CONFIG, weights, repack=repack, threads=t), IDS) for t in (1, 2, 3)
    ]
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])
