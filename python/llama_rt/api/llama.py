"""`Llama`: one loaded model, and everything a caller can ask of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, overload

import numpy as np
import numpy.typing as npt

from llama_rt.api import forward
from llama_rt.api.adapter_choice import ALL, Adapter, choose_adapters
from llama_rt.api.load import Loaded, load
from llama_rt.api.pooling import OWN_POOLING, OwnPooling, own_pooling
from llama_rt.api.prompts import Prompt, check_ids, split_prompts, to_ids
from llama_rt.api.requests import (
    CallOptions,
    ChatOptions,
    Settings,
    Stop,
    check_options,
    take_variables,
)
from llama_rt.api.weights import Repack
from llama_rt.engine import (
    AsyncStream,
    Completion,
    Engine,
    EngineStats,
    Request,
    Stream,
    collect,
    collect_async,
)
from llama_rt.errors import CapacityError, ConfigError, LlamaRtError, TemplateError
from llama_rt.sampling import SamplingFields, SamplingParams

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from llama_rt.chat import Template
    from llama_rt.config import ModelConfig
    from llama_rt.engine.prefix_cache import ActiveAdapters
    from llama_rt.tokenizer import Tokenizer

__all__ = ["Llama"]

Prompts = Sequence[Sequence[int]] | list[str] | tuple[str, ...]
Messages = Sequence[Mapping[str, object]]
Floats = npt.NDArray[np.float32]


class Llama:
    """A model of the LLaMA family, loaded and ready; made by `Llama.load`.

    Any number of threads and asyncio tasks may call it at once: their requests run as one batch.
    A context manager: leaving it calls `close`.

    Attributes:
        path: The checkpoint.
        n_ctx: Tokens of context.
        device: Where it runs, such as `"cpu"`.
        isa: The ISA level in use.
        threads: Threads it computes with.
        load_s: Seconds that loading took.
        reproducible: As given to `load`.
    """

    def __init__(
        self, loaded: Loaded, *, chat_template: str | None = None, reproducible: bool = False
    ) -> None:
        """Takes over what was loaded; callers use `Llama.load`."""
        self._loaded: Loaded | None = loaded
        self._config = loaded.checkpoint.config
        self._tokenizer = loaded.tokenizer
        self._metadata = loaded.checkpoint.metadata
        self._chat_template = chat_template
        self._templates: dict[str | None, Template] = {}
        self.path = loaded.checkpoint.path
        self.n_ctx = loaded.n_ctx
        self.device = loaded.backend.name
        self.isa = loaded.backend.isa
        self.threads = loaded.backend.threads
        self.load_s = loaded.seconds
        self.reproducible = reproducible
        if chat_template is not None:
            self.find_template()

    @classmethod
    def load(
        cls,
        path: str | Path | None = None,
        *,
        device: str = "auto",
        quantize: str | None = None,
        n_ctx: int | None = None,
        threads: int | None = None,
        isa: str | None = None,
        repack: Repack = "auto",
        kv_dtype: str = "f16",
        base: str | Path | None = None,
        adapters: Iterable[str | Path] | Mapping[str, str | Path] = (),
        tokenizer: str | Path | None = None,
        chat_template: str | None = None,
        reproducible: bool = False,
        progress: bool | None = None,
        kv_cache_bytes: int | None = None,
        max_waiting: int | None = None,
    ) -> Llama:
        """Loads a model.

        Args:
            path: A Meta folder (`params.json`, `consolidated.*.pth`), a Hugging Face folder, a
                `.gguf` or `.safetensors` file, `org/name` on the Hub (extra `hf`), or None for the
                built-in model.
            device: `"auto"`, `"cpu"`, `"cuda"` or `"cuda:N"`. A device that is named and cannot be
                used raises; `"auto"` takes what there is.
            quantize: Format for the weights, such as `"q8_0"`; None keeps them as stored.
            n_ctx: Context in tokens; None is the trained one.
            threads: Threads to compute with; None is what the container and the cores allow.
            isa: Highest ISA level to use, such as `"avx2"`.
            repack: `"auto"`, `"never"` or `"always"` copy weights into a faster layout.
            kv_dtype: Cache type: `"f16"`, `"bf16"`, `"f32"` or `"q8_0"`.
            base: The model that a delta, given as `path`, is added to.
            adapters: LoRA or LLaMA-Adapter files or folders, or a mapping of names to them.
            tokenizer: Tokenizer file or folder to use instead of the model's own.
            chat_template: Name or text of the template for `chat`; None is the model's own.
            reproducible: The same bits whatever else runs in the same batch.
            progress: Show a bar: None on a terminal, False never.
            kv_cache_bytes: Maximum size of the cache of keys and values; None is what `n_ctx` and
                the free memory allow.
            max_waiting: Requests that may wait while others run; one more raises `QueueFullError`.
                None is any number.

        Raises:
            CheckpointNotFoundError: The path does not exist.
            CheckpointError: A file is not what its format says.
            ConfigError: An argument or the model's configuration is not supported.
            CapacityError: The model or its cache does not fit; says how much is missing.
            BackendUnavailable: The device was named and cannot be used.
        """
        loaded = load(
            path,
            device=device,
            quantize=quantize,
            n_ctx=n_ctx,
            threads=threads,
            isa=isa,
            repack=repack,
            kv_dtype=kv_dtype,
            base=base,
            adapters=adapters,
            tokenizer=tokenizer,
            reproducible=reproducible,
            progress=progress,
            kv_cache_bytes=kv_cache_bytes,
            max_waiting=max_waiting,
        )
        return cls(loaded, chat_template=chat_template, reproducible=reproducible)

    # What it is.

    @property
    def config(self) -> ModelConfig:
        """Sizes and rules of the model."""
        return self._config

    @property
    def tokenizer(self) -> Tokenizer:
        """Text to ids and back.

        Raises:
            TokenizerError: The checkpoint has none.
            MissingExtraError: It needs the extra `hf`.
        """
        if isinstance(self._tokenizer, LlamaRtError):
            raise self._tokenizer
        return self._tokenizer

    @property
    def template_name(self) -> str | None:
        """Name of the chat template in use; None if there is none."""
        try:
            return self.find_template().name
        except TemplateError:
            return None

    def find_template(self, name: str | None = None) -> Template:
        """Returns a chat template, bound to this model's tokenizer.

        Args:
            name: Name of a format, Jinja source, or a file of it; None is the one it was loaded
                with, else the checkpoint's own.

        Raises:
            TemplateError: There is no such template, or the checkpoint brings none; lists the
                choices.
        """
        from llama_rt.chat import choose_template

        wanted = self._chat_template if name is None else name
        if wanted not in self._templates:
            self._templates[wanted] = choose_template(
                wanted, self.tokenizer, self._metadata, self.path
            )
        return self._templates[wanted]

    def memory(self) -> dict[str, int]:
        """Bytes: `weights`, `kv_cache` (committed), `kv_cache_max`, `workspace`, `adapters`."""
        loaded = self._open()
        adapters = sum(one.native.bytes for one in loaded.adapters.values() if one.native)
        return dict(loaded.runner.memory()) | {"adapters": adapters}

    def stats(self) -> EngineStats:
        """What the engine does now, and what it has done since the model was loaded."""
        return self._open().engine.stats()

    def close(self) -> None:
        """Cancels what is running and frees the model; may be called twice."""
        if self._loaded is not None:
            loaded, self._loaded = self._loaded, None
            loaded.engine.close()

    def __enter__(self) -> Self:
        """Returns the model, for a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Frees the model at the end of a `with` block."""
        self.close()

    def __repr__(self) -> str:
        """Name, device and state."""
        state = "closed" if self._loaded is None else f"{self.device}, context {self.n_ctx}"
        return f"<Llama {self._config.name or self.path.name} ({state})>"

    # Text.

    @overload
    def generate(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        params: SamplingParams | None = None,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        adapter: Adapter = ALL,
        timeout: float | None = None,
        priority: int = 0,
        cache_salt: str = "",
        **sampling: Unpack[SamplingFields],
    ) -> Completion: ...
    @overload
    def generate(
        self,
        prompt: Prompts,
        *,
        max_tokens: int | None = None,
        params: SamplingParams | None = None,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        adapter: Adapter = ALL,
        timeout: float | None = None,
        priority: int = 0,
        cache_salt: str = "",
        **sampling: Unpack[SamplingFields],
    ) -> list[Completion]: ...
    def generate(
        self,
        prompt: Prompt | Prompts,
        *,
        max_tokens: int | None = None,
        params: SamplingParams | None = None,
        stop: Stop = (),
        seed: int | None = None,
        logprobs: int = 0,
        adapter: Adapter = ALL,
        timeout: float | None = None,
        priority: int = 0,
        cache_salt: str = "",
        **sampling: Unpack[SamplingFields],
    ) -> Completion | list[Completion]:
        """Continues a prompt, or a list of prompts as one batch.

        Args:
            prompt: Text (begin-of-text is put in front), ids (taken as they are), or a list of
                either, which gives a list.
            max_tokens: Maximum number of tokens to generate; None runs to the end of the context.
            params: Sampling settings; a field given directly (`temperature=0.0`) wins.
            stop: Strings to stop before, or ids to stop at; one or several.
            seed: Start of the random numbers; None takes one per prompt from the system. Each
                prompt of a list uses it as it would alone, so the same prompt twice gives the same
                text twice.
            logprobs: Report the log-probability of each token and of this many most likely ones;
                0 reports none.
            adapter: A loaded adapter's name, weights by name, or None for none; all by default.
            timeout: Seconds after which what there is is returned: `finish_reason` is
                `"cancelled"`, `stop_reason` `"timeout"`. None waits.
            priority: Requests of a higher one start first when not all can run.
            cache_salt: Reuse of what the cache holds of earlier prompts is among calls of the same
                salt only.
            **sampling: Fields of `SamplingParams`.

        Raises:
            CapacityError: A prompt does not fit in the context; nothing is cut.
            ConfigError: A value is out of range.
            TypeError: A keyword is unknown or a value has the wrong type.
        """
        options = CallOptions(
            max_tokens=max_tokens,
            params=params,
            stop=stop,
            seed=seed,
            logprobs=logprobs,
            adapter=adapter,
            timeout=timeout,
            priority=priority,
            cache_salt=cache_salt,
            **sampling,
        )
        requests, many = self._requests("generate", prompt, options)
        completions = collect(self._open().engine, requests)
        return completions if many else completions[0]

    def stream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Stream:
        """Continues one prompt, as an iterator of `Chunk`; keywords as in `generate`.

        Work begins with this call. Closing the iterator, or dropping it, cancels; its `completion`
        is the whole result.
        """
        settings = self._settings("stream", options)
        request = self._request(settings, self._ids(prompt), streaming=True)
        return Stream(self._open().engine, request)

    @overload
    async def agenerate(self, prompt: Prompt, **options: Unpack[CallOptions]) -> Completion: ...
    @overload
    async def agenerate(
        self, prompt: Prompts, **options: Unpack[CallOptions]
    ) -> list[Completion]: ...
    async def agenerate(
        self, prompt: Prompt | Prompts, **options: Unpack[CallOptions]
    ) -> Completion | list[Completion]:
        """As `generate`, without blocking the event loop; cancelling the task cancels the work."""
        requests, many = self._requests("agenerate", prompt, options)
        completions = await collect_async(self._open().engine, requests)
        return completions if many else completions[0]

    def astream(self, prompt: Prompt, **options: Unpack[CallOptions]) -> AsyncStream:
        """As `stream`, for `async for`; work begins with the first chunk that is asked for."""
        settings = self._settings("astream", options)
        request = self._request(settings, self._ids(prompt), streaming=True)
        return AsyncStream(self._open().engine, request)

    # Conversations.

    def chat(
        self,
        messages: Messages,
        *,
        template: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Completion:
        """Answers a conversation through the model's template; keywords as in `generate`.

        Args:
            messages: Mappings with `role` and `content` (text, or parts of text), and what else the
                template reads; they reach it as they are.
            template: Name or text of a template for this call; None is the loaded one.
            **options: As in `generate`, and
                `tools`, `documents`: what the template may offer to the model, lists of mappings.
                `chat_template_kwargs`: further variables of the template (`enable_thinking`, ...).
                `add_generation_prompt`: end the prompt with what makes the model answer; the
                default, unless `continue_final_message`: the model goes on with the last message.

        Raises:
            TemplateError: The model has no template and none was named; lists the choices. Or the
                template refuses the conversation, or has no place for what was given.
            CapacityError: The conversation does not fit in the context.
        """
        request = self._chat_request("chat", messages, template, options)
        return collect(self._open().engine, [request])[0]

    def chat_stream(
        self,
        messages: Messages,
        *,
        template: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Stream:
        """As `chat`, as an iterator of `Chunk`; see `stream`."""
        request = self._chat_request("chat_stream", messages, template, options, streaming=True)
        return Stream(self._open().engine, request)

    async def achat(
        self,
        messages: Messages,
        *,
        template: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> Completion:
        """As `chat`, without blocking the event loop."""
        request = self._chat_request("achat", messages, template, options)
        return (await collect_async(self._open().engine, [request]))[0]

    def achat_stream(
        self,
        messages: Messages,
        *,
        template: str | None = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncStream:
        """As `chat_stream`, for `async for`."""
        request = self._chat_request("achat_stream", messages, template, options, streaming=True)
        return AsyncStream(self._open().engine, request)

    # Numbers.

    @overload
    def logits(self, ids: Sequence[int], *, adapter: Adapter = ALL) -> Floats: ...
    @overload
    def logits(self, ids: Sequence[Sequence[int]], *, adapter: Adapter = ALL) -> list[Floats]: ...
    def logits(
        self, ids: Sequence[int] | Sequence[Sequence[int]], *, adapter: Adapter = ALL
    ) -> Floats | list[Floats]:
        """Logits of every position in a fresh context, with no begin-of-text added.

        Args:
            ids: Token ids, `[n]`, or a list of such, which runs as one batch and gives a list.
            adapter: As in `generate`.

        Returns:
            float32 `[n, vocab]`; row i is about the token after `ids[i]`.

        Raises:
            CapacityError: More ids than the context holds, or a result too large for the memory.
            ConfigError: An id is not in the vocabulary, or there is none.
        """
        self._needs_output("logits")
        engine, texts, active, many = self._for_numbers(ids, adapter, text=False)
        rows = forward.logits(engine, texts, active, self._config.vocab_size)
        return rows if many else rows[0]

    @overload
    def score(self, text_or_ids: Prompt, *, adapter: Adapter = ALL) -> Floats: ...
    @overload
    def score(self, text_or_ids: Prompts, *, adapter: Adapter = ALL) -> list[Floats]: ...
    def score(
        self, text_or_ids: Prompt | Prompts, *, adapter: Adapter = ALL
    ) -> Floats | list[Floats]:
        """Log-probability of every token after the first, float32 `[n-1]`.

        Args:
            text_or_ids: Text (framed by the model's own rule) or ids as they are; or a list of
                either, which runs as one batch, computes once what several begin with, and gives a
                list.
            adapter: As in `generate`.

        Raises:
            CapacityError: More tokens than the context holds.
        """
        self._needs_output("score")
        engine, texts, active, many = self._for_numbers(text_or_ids, adapter)
        rows = forward.score(engine, texts, active, self._config.vocab_size)
        return rows if many else rows[0]

    @overload
    def embed(
        self,
        text_or_ids: Prompt,
        pooling: Literal["mean", "last"] = OWN_POOLING,
        normalize: bool = True,
        *,
        adapter: Adapter = ALL,
    ) -> Floats: ...
    @overload
    def embed(
        self,
        text_or_ids: Prompts,
        pooling: Literal["mean", "last"] = OWN_POOLING,
        normalize: bool = True,
        *,
        adapter: Adapter = ALL,
    ) -> list[Floats]: ...
    def embed(
        self,
        text_or_ids: Prompt | Prompts,
        pooling: Literal["mean", "last"] = OWN_POOLING,
        normalize: bool = True,
        *,
        adapter: Adapter = ALL,
    ) -> Floats | list[Floats]:
        """One vector for a text, float32 `[dim]`, from the last layer's normed states.

        Args:
            text_or_ids: Text (framed by the model's own rule) or ids as they are; or a list of
                either, which runs as one batch and gives a list.
            pooling: The mean over all tokens, or the last one's state. Left out, it is what the
                model's `1_Pooling/config.json` says, the mean without one.
            normalize: Scale to length 1.
            adapter: As in `generate`.

        Raises:
            CapacityError: More tokens than the context holds.
            ConfigError: Another `pooling`.
        """
        if isinstance(pooling, OwnPooling):
            pooling = own_pooling(self.path)
        engine, texts, active, many = self._for_numbers(text_or_ids, adapter)
        rows = forward.embed(engine, texts, active, self._config.dim, pooling, normalize)
        return rows if many else rows[0]

    # Shared by the calls.

    def _open(self) -> Loaded:
        if self._loaded is None:
            msg = f"this Llama ({self.path.name}) is closed; load it again"
            raise LlamaRtError(msg)
        return self._loaded

    def _ids(self, prompt: object) -> list[int]:
        if isinstance(prompt, str):
            return to_ids(prompt, self.tokenizer, self._config.vocab_size)
        return check_ids(prompt, self._config.vocab_size)

    def _for_numbers(
        self, text_or_ids: object, adapter: object, *, text: bool = True
    ) -> tuple[Engine, list[list[int]], ActiveAdapters, bool]:
        loaded = self._open()
        active = choose_adapters(adapter, loaded.adapters)
        given, many = split_prompts(text_or_ids)
        size = self._config.vocab_size
        texts = [self._ids(one) if text else check_ids(one, size) for one in given]
        limit = min(self.n_ctx, loaded.cache_tokens)
        for ids in texts:
            if len(ids) > limit:
                msg = f"{len(ids)} tokens do not fit in the context of {limit}"
                raise CapacityError(msg)
        return loaded.engine, texts, active, many

    def _needs_output(self, caller: str) -> None:
        if self._config.bare:
            msg = (
                f"{caller}: {self.path} is a model without an output matrix (saved as LlamaModel "
                "or a relative); it embeds texts and predicts no tokens"
            )
            raise ConfigError(msg)

    def _settings(self, caller: str, options: CallOptions) -> Settings:
        return check_options(caller, options, self._open().adapters)

    def _request(self, settings: Settings, ids: list[int], *, streaming: bool = False) -> Request:
        loaded = self._open()
        self._needs_output("generate")
        return settings.request(
            ids,
            self.tokenizer,
            vocab_size=self._config.vocab_size,
            n_ctx=self.n_ctx,
            cache_tokens=loaded.cache_tokens,
            streaming=streaming,
            isa=self.isa if self.device == "cpu" else "",
        )

    def _chat_request(
        self,
        caller: str,
        messages: Messages,
        template: str | None,
        options: ChatOptions,
        *,
        streaming: bool = False,
    ) -> Request:
        rest = cast("dict[str, object]", dict(options))
        variables = take_variables(rest)
        chosen = self.find_template(template)
        settings = self._settings(caller, cast("CallOptions", rest))
        stop = tuple(dict.fromkeys((*settings.stop, *chosen.stop)))
        ids = chosen.render(messages, **variables)
        if not ids:
            msg = f"the chat template of {chosen.origin} makes an empty prompt of these messages"
            raise TemplateError(msg)
        return self._request(replace(settings, stop=stop), ids, streaming=streaming)

    def _requests(
        self, caller: str, prompt: object, options: CallOptions
    ) -> tuple[list[Request], bool]:
        settings = self._settings(caller, options)
        prompts, many = split_prompts(prompt)
        ids = [self._ids(one) for one in prompts]
        return [self._request(settings, one) for one in ids], many
