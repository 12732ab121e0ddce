"""The timed passes: a prompt from an empty cache, and decoding from a filled one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from llama_rt import _native
from llama_rt.benchmark.settings import Settings

__all__ = ["CHUNK", "PAGE", "Passes"]

# Prompts are fed in pieces of this many tokens, as the engine does.
CHUNK = 512
# No page of the cache holds more tokens: what a sequence may take beyond its own.
PAGE = _native.KV_PAGE_TOKENS

Profile = dict[str, dict[str, float]]


class Passes:
    """Runs the passes of one measurement over one runner."""

    def __init__(
        self,
        runner: _native.Runner,
        vocab: int,
        settings: Settings,
        adapters: Sequence[_native.Adapter],
    ) -> None:
        """Uses all of `adapters` in every pass."""
        self._runner = runner
        self._vocab = vocab
        self._settings = settings
        self._active = [(adapter, 1.0) for adapter in adapters]

    def prefill(self, profile: Profile) -> list[float]:
        """Prompt tokens per second; a first pass warms up and is not counted."""
        prompt = self._random_tokens(self._settings.prompt, seed=1)
        self._timed_prompt(prompt)
        figures = [len(prompt) / self._timed_prompt(prompt) for _ in range(self._settings.repeat)]
        if self._settings.profile:
            self._runner.profile(True)
            self._timed_prompt(prompt)
            profile["prefill"] = self._runner.profile(False)
        return figures

    def decode(self, profile: Profile) -> tuple[list[float], list[float]]:
        """Generated tokens per second of the whole batch, greedy, from a filled cache.

        Returns:
            The figures; and, if there are adapters, those without them, each taken right after its
            counterpart, so that both ran under the same load.
        """
        settings, runner = self._settings, self._runner
        sequences = [runner.create() for _ in range(settings.batch)]
        for index, sequence in enumerate(sequences):
            self._feed(sequence, self._random_tokens(settings.context, seed=2 + index))
        self._timed_decode(sequences, min(4, settings.generate))  # warm up
        tokens = settings.batch * settings.generate
        figures, plain = [], []
        for _ in range(settings.repeat):
            figures.append(tokens / self._timed_decode(sequences, settings.generate))
            if self._active:
                seconds = self._timed_decode(sequences, settings.generate, with_adapters=False)
                plain.append(tokens / seconds)
        if settings.profile:
            runner.profile(True)
            self._timed_decode(sequences, settings.generate)
            profile["decode"] = runner.profile(False)
        for sequence in sequences:
            runner.release(sequence)
        return figures, plain

    def _timed_prompt(self, prompt: npt.NDArray[np.int32]) -> float:
        """Seconds to read a prompt into a fresh sequence."""
        sequence = self._runner.create()
        began = time.perf_counter()
        self._feed(sequence, prompt)
        seconds = time.perf_counter() - began
        self._runner.release(sequence)
        return seconds

    def _timed_decode(
        self, sequences: list[int], steps: int, *, with_adapters: bool = True
    ) -> float:
        """Seconds to decode `steps` tokens for each sequence; the cache is as before afterwards.

        The samplers have no stop tokens, so that all steps are taken.
        """
        first = self._random_tokens(len(sequences), seed=3).tolist()
        samplers = [_native.Sampler(self._vocab, temperature=0.0) for _ in sequences]
        adapters = self._adapters(sequences) if with_adapters else []
        began = time.perf_counter()
        self._runner.decode(sequences, first, samplers, steps=steps, adapters=adapters)
        seconds = time.perf_counter() - began
        for sequence in sequences:
            self._runner.truncate(sequence, self._settings.context)
        return seconds

    def _feed(self, sequence: int, tokens: npt.NDArray[np.int32]) -> None:
        """Appends tokens in chunks; the logits of the last one are computed, as for a prompt."""
        for start in range(0, len(tokens), CHUNK):
            chunk = tokens[start : start + CHUNK]
            self._runner.forward(
                [sequence],
                [chunk],
                outputs="last" if start + CHUNK >= len(tokens) else "none",
                adapters=self._adapters([sequence]),
            )

    def _adapters(self, sequences: list[int]) -> list[list[tuple[_native.Adapter, float]]]:
        return [self._active for _ in sequences] if self._active else []

    def _random_tokens(self, count: int, *, seed: int) -> npt.NDArray[np.int32]:
        return np.random.default_rng(seed).integers(0, self._vocab, count, dtype=np.int32)
