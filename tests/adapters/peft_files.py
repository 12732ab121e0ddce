"""LoRA and adaption prompts by peft itself: the folders it saves and the logits it computes."""

import warnings

import pytest
import torch

from reference.checkpoints import hf_model

peft = pytest.importorskip("peft")

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def save_lora(
    folder,
    config,
    weights,
    *,
    seed=0,
    container="safetensors",
    dtype=None,
    tables=False,
    **options,
):
    """Saves a random LoRA for the model; returns what the pair computes: ids -> float64 logits.

    `tables`: with the base's embedding and output together with factors of them, as peft does by
    default.
    """
    settings = {"r": 8, "lora_alpha": 16, "target_modules": LINEARS, "lora_dropout": 0.05}
    return _save(
        folder,
        config,
        weights,
        peft.LoraConfig(**settings | options),
        seed,
        container,
        dtype,
        tables,
    )


def save_adaption_prompt(folder, config, weights, *, seed=0, length=5, layers=1):
    """Saves a random adaption prompt on the last `layers` layers."""
    settings = peft.AdaptionPromptConfig(
        adapter_len=length, adapter_layers=layers, target_modules="self_attn"
    )
    return _save(folder, config, weights, settings, seed, "safetensors", None, False)


def _save(folder, config, weights, settings, seed, container, dtype, tables):
    settings.task_type = "CAUSAL_LM"
    with warnings.catch_warnings():  # peft and transformers of different years
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(hf_model(config, weights), settings)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                spread = 0.5 if "gate" in name else 0.1
                value.copy_(spread * torch.randn(value.shape, generator=generator))
                if dtype is not None:
                    value.copy_(value.to(dtype).float())
    if dtype is not None:
        for value in model.parameters():
            if value.requires_grad:
                value.data = value.data.to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(
            folder, safe_serialization=container == "safetensors", save_embedding_layers=tables
        )
    model = model.double().eval()

    def logits(ids):
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].numpy()

    return logits
