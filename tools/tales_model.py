"""The built-in model as PyTorch modules: LLaMA's graph under Hugging Face's parameter names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn


@dataclass(frozen=True)
class TalesConfig:
    """Shape of a model; the names are those of a Hugging Face ``config.json``."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int
    vocab_size: int = 4096
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = True

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    def to_hf(self) -> dict[str, object]:
        """The ``config.json`` that describes this model to other readers."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": "float32",
            "head_dim": self.head_dim,
            **asdict(self),
        }


SIZES = {
    "tiny": TalesConfig(128, 4, 4, 2, 352),
    "small": TalesConfig(192, 6, 3, 1, 512),
    "base": TalesConfig(256, 8, 4, 2, 704),
    "large": TalesConfig(320, 10, 5, 1, 864),
}


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; same dtype out as in."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * self.weight).to(x.dtype)


def rotary_tables(config: TalesConfig, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32 ``[length, head_dim]``, rotate-halves layout."""
    exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64) / config.head_dim
    angles = torch.outer(
        torch.arange(length, dtype=torch.float64), config.rope_theta**-exponents
    ).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate ``[batch, heads, tokens, head_dim]`` by position, pairing i with i + head_dim/2."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, block: int = 64) -> Tensor:
    """Causal softmax attention over blocks of queries, each seeing only the keys up to its end.

    Several times faster to train on a CPU than ``scaled_dot_product_attention``: the products are
    plain batched bf16 matrix products, and half of the square is never computed.

    Args:
        q: ``[batch, heads, tokens, head_dim]``, as are ``k`` and ``v``.
        k: keys.
        v: values.
        block: queries per block.

    Returns:
        ``[batch, heads, tokens, head_dim]``, dtype of ``q``.
    """
    length, scale = q.shape[2], q.shape[3] ** -0.5
    outs = []
    for begin in range(0, length, block):
        end = min(begin + block, length)
        scores = torch.matmul(q[:, :, begin:end], k[:, :, :end].transpose(-1, -2)).float() * scale
        row = torch.arange(begin, end, device=q.device)[:, None]
        scores = scores.masked_fill(torch.arange(end, device=q.device) > row, float("-inf"))
        outs.append(torch.matmul(scores.softmax(-1).to(q.dtype), v[:, :, :end]))
    return torch.cat(outs, 2)


class Attention(nn.Module):
    """Causal attention with grouped key/value heads."""

    def __init__(self, config: TalesConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.head_dim
        dim, kv_dim = config.hidden_size, self.kv_heads * self.head_dim
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_dim, bias=False)
        self.o_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        batch, length, dim = x.shape
        q = self.q_proj(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(batch, length, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        groups = self.heads // self.kv_heads
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        y = causal_attention(q, k, v)
        out: Tensor = self.o_proj(y.transpose(1, 2).reshape(batch, length, dim))
        return out


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: TalesConfig) -> None:
        super().__init__()
        dim, hidden = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(dim, hidden, bias=False)
        self.up_proj = nn.Linear(dim, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward, each after a norm, each with a residual."""

    def __init__(self, config: TalesConfig, dropout: float) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = FeedForward(config)
        self.dropout = dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``[batch, tokens, dim]`` to the same shape."""
        y = self.self_attn(self.input_layernorm(x), cos, sin)
        x = x + F.dropout(y, self.dropout, self.training)
        y = self.mlp(self.post_attention_layernorm(x))
        return x + F.dropout(y, self.dropout, self.training)


class Backbone(nn.Module):
    """Embedding, blocks and last norm."""

    def __init__(self, config: TalesConfig, dropout: float) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, dropout) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Ids ``[batch, tokens]`` to normed states ``[batch, tokens, dim]``."""
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class TalesModel(nn.Module):
    """The language model; ``state_dict()`` has the names of ``LlamaForCausalLM``."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: TalesConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.model = Backbone(config, dropout)
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        cos, sin = rotary_tables(config, config.max_position_embeddings)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Small normal embedding; matrices uniform by fan-in; residual outputs start at zero."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif name.endswith(("embed_tokens.weight", "lm_head.weight")):
                nn.init.normal_(parameter, std=0.02)
            else:
                bound = (3 / parameter.shape[1]) ** 0.5
                nn.init.uniform_(parameter, -bound, bound)

    def head(self) -> Tensor:
        """The output matrix, ``[vocab, dim]``."""
        if self.config.tie_word_embeddings:
            return self.model.embed_tokens.weight
        return self.lm_head.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Ids ``[batch, tokens]`` to logits ``[batch, tokens, vocab]``."""
        length = ids.shape[1]
        x = self.model(ids, self.cos[:length], self.sin[:length])
        return F.linear(x, self.head())

    def loss(self, windows: Tensor) -> Tensor:
        """Mean cross-entropy in nats of ``[batch, tokens + 1]`` windows."""
        ids = windows[:, :-1]
        length = ids.shape[1]
        x = self.model(ids, self.cos[:length], self.sin[:length])
        return self.head_loss(x, windows[:, 1:])

    def head_loss(self, x: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of ``[batch, tokens]`` targets after states ``x``."""
        logits = F.linear(x, self.head())
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    def matrix_parameters(self) -> int:
        """Weights multiplied per token: every matrix, the output head counted once."""
        layers = sum(p.numel() for p in self.model.layers.parameters() if p.ndim == 2)
        return layers + self.head().numel()


def load_model(path: Path) -> TalesModel:
    """The model of a checkpoint written by ``train_tales.py``, on the CPU in float32."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = TalesModel(TalesConfig(**state["config"]))
    model.load_state_dict(state["model"])
    return model
