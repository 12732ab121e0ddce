"""Which architectures of Hugging Face share LLaMA's graph, and why others do not.

An architecture is told before any tensor is named, so that a model of another kind is refused for
what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llama_rt.config.checked_keys import Keys, shown

__all__ = ["Family", "family_of"]

Kind = Literal["llama", "mistral", "qwen2", "qwen3", "phi3", "internlm", "Yi", "baichuan"]


@dataclass(frozen=True, slots=True)
class Family:
    """What a file's architecture says.

    Attributes:
        kind: the `model_type` whose defaults and rules hold.
        bare: saved without an output matrix (`LlamaModel`): it embeds texts.
    """

    kind: Kind
    bare: bool = False


_FAMILIES = {
    "LlamaForCausalLM": Family("llama"),
    "LLaMAForCausalLM": Family("llama"),
    "MistralForCausalLM": Family("mistral"),
    "Qwen2ForCausalLM": Family("qwen2"),
    "Qwen3ForCausalLM": Family("qwen3"),
    "Phi3ForCausalLM": Family("phi3"),
    "InternLMForCausalLM": Family("internlm"),
    "YiForCausalLM": Family("Yi"),
    "BaiChuanForCausalLM": Family("baichuan"),
    "BaichuanForCausalLM": Family("baichuan"),
    "LlamaModel": Family("llama", bare=True),
    "MistralModel": Family("mistral", bare=True),
    "Qwen2Model": Family("qwen2", bare=True),
    "Qwen3Model": Family("qwen3", bare=True),
}
_KINDS: tuple[Kind, ...] = (
    "llama", "mistral", "qwen2", "qwen3", "phi3", "internlm", "Yi", "baichuan",
)  # fmt: skip
# What sets others apart, by model_type or the beginning of an architecture's name, lower case.
_EXPERTS = "a mixture of experts"
_LAYER_NORM = "layer norms with a mean"
_REASONS = {
    "mixtral": _EXPERTS,
    "qwen2moe": _EXPERTS,
    "qwen3moe": _EXPERTS,
    "qwen3next": _EXPERTS,
    "phimoe": _EXPERTS,
    "dbrx": _EXPERTS,
    "olmoe": _EXPERTS,
    "granitemoe": _EXPERTS,
    "gptoss": _EXPERTS,
    "deepseek": "experts and latent attention",
    "llama4": "experts, and layers without rotation",
    "gemma2": "norms after each block, and soft caps on scores and logits",
    "gemma3": "norms after each block, and windows in some layers",
    "gemma": "norms of 1 + weight, scaled embeddings and a GELU",
    "cohere": f"{_LAYER_NORM}, and blocks that run side by side",
    "phi": f"{_LAYER_NORM}, and blocks that run side by side",
    "falcon": f"{_LAYER_NORM}, or blocks that run side by side",
    "stablelm": f"{_LAYER_NORM}, and rotation of parts of heads",
    "gptneox": f"{_LAYER_NORM}, and blocks that run side by side",
    "gptj": f"{_LAYER_NORM}, and blocks that run side by side",
    "gpt2": f"{_LAYER_NORM}, and learned positions",
    "starcoder2": f"{_LAYER_NORM}, and another feed-forward",
    "nemotron": f"{_LAYER_NORM}, and another feed-forward",
    "olmo2": "norms after each block",
    "olmo3": "norms after each block",
    "olmo": "layer norms without weights",
    "granite": "multipliers of embeddings, scores, residuals and logits",
    "minicpm": "multipliers of embeddings, residuals and logits",
    "smollm3": "layers without rotation",
    "internlm2": "its own fused projections; converted to LLaMA's layout it runs",
    "chatglm": "rotation of parts of heads, and fused projections of its own",
    "glm": "rotation of parts of heads",
    "exaone": "another naming and graph",
    "qwenlm": "fused projections of its own; Qwen2 and Qwen3 run",
    "bloom": f"{_LAYER_NORM}, and biases by distance in place of rotation",
    "mpt": f"{_LAYER_NORM}, and biases by distance in place of rotation",
    "opt": f"{_LAYER_NORM}, and learned positions",
    "mamba": "no attention",
    "rwkv": "no attention",
    "jamba": "layers without attention",
    "bert": "an encoder",
    "t5": "an encoder and a decoder",
    "llamabidirectional": "attention in both directions",
    "mllama": "images",
    "llava": "images",
    "pixtral": "images",
    "mistral3": "images",
    "qwen2vl": "images",
    "llamaforsequenceclassification": "a classifier in place of the output",
    "mistralforsequenceclassification": "a classifier in place of the output",
}


def family_of(keys: Keys) -> Family:
    """Tells the family from `model_type` and `architectures`.

    Raises:
        ConfigError: it is none that is computed; says which it is, and what sets it apart.
    """
    supported = f"supported: LlamaForCausalLM and relatives (model_type {', '.join(_KINDS)})"
    model_type = keys.text("model_type")
    architectures = keys.get("architectures")
    known: list[str] = []
    if architectures is not None:
        if not isinstance(architectures, list) or not all(
            isinstance(item, str) for item in architectures
        ):
            keys.refuse("architectures", "must be a list of strings")
        known = [item for item in architectures if item in _FAMILIES]
        if architectures and not known:
            names = ", ".join(shown(item) for item in architectures[:3])
            why = _reason(architectures[0]) or _reason(model_type)
            keys.refuse("architectures", f"says {names}, which is not supported{why}; {supported}")
        if known and not model_type:
            return _FAMILIES[known[0]]
    if not model_type:
        keys.refuse("model_type", f"is missing; {supported}")
    kind = next((kind for kind in _KINDS if kind == model_type), None)
    if kind is None:
        why = _reason(model_type)
        keys.refuse("model_type", f"is {shown(model_type)}, not supported{why}; {supported}")
    other = _FAMILIES[known[0]].kind if known else kind
    if other != kind and not {kind, other} <= {"llama", "mistral"}:
        keys.refuse(
            "model_type", f"is {shown(model_type)}, but architectures says {known[0]}; {supported}"
        )
    return Family(kind, bare=bool(known) and _FAMILIES[known[0]].bare)


def _reason(name: str) -> str:
    plain = name.lower().replace("_", "").replace("-", "")
    found = max((one for one in _REASONS if plain.startswith(one)), key=len, default=None)
    return "" if found is None else f" ({_REASONS[found]})"
