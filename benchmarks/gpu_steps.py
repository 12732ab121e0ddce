"""The steps of `gpu.py`, each run in a process of its own: measures, and returns plain numbers."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llama_rt.config import ModelConfig

Figures = dict[str, Any]

PAGE = 64
CHUNK = 512
STEPS = 128  # tokens of a timed decode
REPEATS = 3
TINY = ModelConfig(
    dim=256, n_layers=2, n_heads=4, n_kv_heads=4, head_dim=64, ffn_dim=512, vocab_size=512,
    norm_eps=1e-6, max_context=2048,
)  # fmt: skip


def limits() -> Figures:
    """Bytes per second of a read-only reduction; multiply-adds per second of torch's products."""
    import torch

    from llama_rt import _native

    [device, *_], _ = _native.cuda_devices()
    read = max(_native.cuda_read_bandwidth(0, 8 << 30, 0.5) for _ in range(3))
    best = 0.0
    for n, k, m in ((8192, 8192, 8192), (2048, 4096, 22016), (2048, 4096, 12288)):
        x = torch.randn(n, k, device="cuda", dtype=torch.bfloat16)
        w = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        seconds = _torch_seconds(lambda x=x, w=w: torch.nn.functional.linear(x, w), 20)
        best = max(best, n * k * m / seconds)
    return {
        "device": device.name,
        "memory_bytes": device.memory_bytes,
        "nominal_bytes_s": device.bandwidth,
        "read_bytes_s": read,
        "multiply_s": best,
    }


def _torch_seconds(call: Callable[[], object], times: int) -> float:
    """Median seconds of a call, by events, after a warm-up."""
    import torch

    for _ in range(5):
        call()
    taken = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(times):
            call()
        end.record()
        torch.cuda.synchronize()
        taken.append(begin.elapsed_time(end) / 1e3 / times)
    return statistics.median(taken)


class Model:
    """A synthetic model on the device, and the timed passes over it."""

    def __init__(self, shape: str, form: str) -> None:
        from llama_rt import _native
        from llama_rt.api.weights import build_model
        from llama_rt.benchmark.synthetic import synthetic_checkpoint

        self._native = _native
        began = time.perf_counter()
        checkpoint = synthetic_checkpoint(TINY if shape == "tiny" else shape, form)
        self.config = checkpoint.config
        backend = _native.open_backend("cuda")
        self.model = build_model(checkpoint, backend, quantize=None, repack="auto", progress=False)
        self.load_s = time.perf_counter() - began
        self.streamed = self.model.streamed_bytes

    def runner(self, *, context: int, batch: int, kv: str) -> Any:  # noqa: ANN401
        """A runner for `batch` sequences of `context` tokens."""
        return self._native.Runner(
            self.model, n_ctx=context, kv_dtype=kv, max_batch_tokens=CHUNK,
            cache_tokens=batch * (context + PAGE),
        )  # fmt: skip

    def fill(self, runner: Any, sequence: int, tokens: int) -> None:  # noqa: ANN401
        """Puts random tokens in the cache, in chunks; waits for the last."""
        ids = np.random.default_rng(tokens).integers(0, self.config.vocab_size, tokens)
        for start in range(0, tokens, CHUNK):
            last = start + CHUNK >= tokens
            chunk = ids[start : start + CHUNK].astype(np.int32)
            runner.forward([sequence], [chunk], outputs="last" if last else "none")

    def decode(self, *, context: int = 0, batch: int = 1, kv: str = "f16") -> Figures:
        """Tokens per second of all sequences together, and the cache bytes of a step."""
        runner = self.runner(context=context + STEPS + 8, batch=batch, kv=kv)
        sequences = [runner.create() for _ in range(batch)]
        for sequence in sequences:
            self.fill(runner, sequence, context)

        def timed(steps: int) -> float:
            samplers = [
                self._native.Sampler(self.config.vocab_size, temperature=0.0) for _ in sequences
            ]
            began = time.perf_counter()
            runner.decode(sequences, [1] * batch, samplers, steps=steps)
            seconds = time.perf_counter() - began
            for sequence in sequences:
                runner.truncate(sequence, context)
            return seconds

        timed(8)
        timed(STEPS)
        rates = [batch * STEPS / timed(STEPS) for _ in range(REPEATS)]
        c = self.config
        element = {"f16": 2.0, "q8_0": 1.125}[kv]
        per_token = 2 * c.n_layers * c.n_kv_heads * c.head_dim * element
        kv_bytes = batch * (context + STEPS / 2) * per_token
        return {"tok_s": rates, "streamed": self.streamed, "kv_bytes": kv_bytes, "batch": batch}

    def prefill(self, tokens: int) -> Figures:
        """Prompt tokens per second, and the multiply-adds of a token's linear layers."""
        runner = self.runner(context=tokens, batch=2, kv="f16")

        def timed() -> float:
            sequence = runner.create()
            began = time.perf_counter()
            self.fill(runner, sequence, tokens)
            seconds = time.perf_counter() - began
            runner.release(sequence)
            return seconds

        timed()
        rates = [tokens / timed() for _ in range(REPEATS)]
        c = self.config
        heads, kv_heads = c.n_heads * c.head_dim, c.n_kv_heads * c.head_dim
        linear = c.dim * (2 * heads + 2 * kv_heads + 3 * c.ffn_dim)
        return {"tok_s": rates, "multiplications": c.n_layers * linear}


def models(shape: str, form: str, jobs: dict[str, dict[str, Any]]) -> Figures:
    """Runs several passes over one model; `jobs` names them and gives their arguments."""
    model = Model(shape, form)
    figures: Figures = {"load_s": model.load_s}
    for name, arguments in jobs.items():
        given = dict(arguments)
        figures[name] = getattr(model, given.pop("pass"))(**given)
    return figures


def profile(shape: str, form: str) -> Figures:
    """Microseconds of each kernel in one decode step, from the driver's own trace."""
    import torch
    from torch.profiler import ProfilerActivity

    model = Model(shape, form)
    steps = 16
    torch.zeros(1, device="cuda")
    model.decode()
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as trace:
        runner = model.runner(context=64, batch=1, kv="f16")
        sequence = runner.create()
        sampler = model._native.Sampler(model.config.vocab_size, temperature=0.0)
        runner.decode([sequence], [1], [sampler], steps=steps)
    rows = [
        (e.key, e.self_device_time_total / steps, e.count / steps) for e in trace.key_averages()
    ]
    rows = sorted((row for row in rows if row[1] > 0), key=lambda row: -row[1])
    return {"kernels": [[name[:100], round(us, 2), round(n, 2)] for name, us, n in rows[:20]]}


def sanitize(tool: str) -> Figures:
    """A tool of compute-sanitizer over some of the device's tests: what it says in the end."""
    found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(found).is_file():
        return {"summary": "compute-sanitizer is not here"}
    few = "bf16 or q4_0 or q4_k or rms_norm or attention or greedy_text_survives"
    command = [found, "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
    command += [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", few]
    done = subprocess.run([*command, "--small", "tests/device"], capture_output=True, text=True)
    sys.stdout.write(done.stdout[-6000:])
    lines = [line for line in done.stdout.splitlines() if "SUMMARY" in line or " passed" in line]
    return {"summary": "; ".join(lines)[-300:], "passed": done.returncode == 0}


def golden(folder: str) -> Figures:
    """Relative error of the logits of every case in a folder, with the bound it must keep."""
    from llama_rt import Llama

    root = Path(folder)
    cases = [(p.parent, p) for p in sorted(root.glob("*/expected.npz"))]
    cases += [(p, p.with_suffix(".npz")) for p in sorted(root.glob("gguf/*.gguf"))]
    skipped = {"peft-lora", "delta-f32"}
    errors: dict[str, list[float]] = {}
    for path, file in cases:
        if path.name in skipped:
            continue
        with np.load(file) as held:
            ids, expected = held["ids"], held["logits"].astype(np.float64)
        with Llama.load(path, device="cuda", progress=False) as llm:
            got = llm.logits(ids.tolist()).astype(np.float64)
        name = path.name.lower()
        exact = "f16" in name or "f32" in name
        bound = 1.5e-2 if "bf16" in name else 2e-3 if exact else 2.5e-2
        error = float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
        errors[path.name] = [error, bound]
    return {"errors": errors}


def torch_decode(steps: int = 64) -> Figures:
    """Tokens per second of a compiled torch decode loop of the 7B, bf16, static cache."""
    import torch
    from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

    torch.set_grad_enabled(False)
    d, layers, heads, ffn, vocab, context = 4096, 32, 32, 11008, 32000, 256
    e = d // heads
    make = {"device": "cuda", "dtype": torch.bfloat16}

    def weight(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, **make) * 0.02

    blocks = [
        {
            "qkv": weight(3 * d, d), "o": weight(d, d), "gate_up": weight(2 * ffn, d),
            "down": weight(d, ffn), "n1": torch.ones(d, **make), "n2": torch.ones(d, **make),
            "k": torch.zeros(1, heads, context, e, **make),
            "v": torch.zeros(1, heads, context, e, **make),
        }
        for _ in range(layers)
    ]  # fmt: skip
    table, output, norm = weight(vocab, d), weight(vocab, d), torch.ones(d, **make)
    for block in blocks:  # else the cache, which a step writes, keeps torch from recording it
        for held in block.values():
            torch._dynamo.mark_static_address(held)
    frequencies = 10000.0 ** (-torch.arange(0, e, 2, device="cuda") / e)

    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def step(token: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        x = table[token]
        angle = position.to(torch.float32) * frequencies
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        mask = (torch.arange(context, device="cuda") <= position).view(1, 1, 1, context)
        for block in blocks:
            h = rms_norm(x, (d,), block["n1"])
            q, k, v = linear(h, block["qkv"]).view(3, 1, heads, 1, e)
            block["k"].index_copy_(2, position, rotate(k, cos, sin))
            block["v"].index_copy_(2, position, v)
            a = scaled_dot_product_attention(
                rotate(q, cos, sin), block["k"], block["v"], attn_mask=mask
            )
            x = x + linear(a.reshape(1, d), block["o"])
            gate, up = linear(rms_norm(x, (d,), block["n2"]), block["gate_up"]).chunk(2, -1)
            x = x + linear(silu(gate) * up, block["down"])
        return linear(rms_norm(x, (d,), norm), output).argmax(-1)

    compiled = torch.compile(step, mode="reduce-overhead", fullgraph=True)
    token = torch.zeros(1, dtype=torch.long, device="cuda")
    positions = [torch.tensor([i], device="cuda") for i in range(context)]
    for i in range(8):
        token = compiled(token, positions[i]).clone()
    rates = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for i in range(steps):
            token = compiled(token, positions[8 + i]).clone()
        torch.cuda.synchronize()
        rates.append(steps / (time.perf_counter() - began))
    return {"tok_s": rates}
