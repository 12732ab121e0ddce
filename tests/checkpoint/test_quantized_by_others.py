"""Quantized folders as their own libraries read them: compressed-tensors, transformers."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoint.published import CONFIG, LINEARS, write_folder
from checkpoint.test_quantized_folders import IDS, LAYOUTS
from formats.stored import values
from llama_rt.checkpoint import open_checkpoint
from reference.checkpoints import hf_name
from reference.model import random_weights

COMPRESSED = ("w4a16", "w4a16 zeros", "w3a16", "w8a16", "w8a8", "w8a8 tensor", "w8a8 zeros",
              "fp8 compressed", "fp8 compressed tiles")  # fmt: skip


@pytest.fixture(scope="session")
def compressors(tmp_path_factory):
    """The package's own decompression; it needs no other version of torch."""
    folder = tmp_path_factory.mktemp("packages")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    names = ["compressed-tensors==0.20.1", "loguru==0.7.3"]
    if subprocess.run([*command, *names], capture_output=True, check=False).returncode:
        pytest.skip("compressed-tensors cannot be fetched here")
    sys.path.insert(0, str(folder))
    try:
        from compressed_tensors import compressors
        from compressed_tensors.quantization import QuantizationScheme

        yield compressors, QuantizationScheme
    finally:
        sys.path.remove(str(folder))


@pytest.mark.parametrize("layout", COMPRESSED)
def test_compressed_tensors(tmp_path, layout, compressors):
    """Its sums are in the scales' own type, so in theirs only the integers can be compared."""
    package, scheme_of = compressors
    layer, settings, _, _ = LAYOUTS[layout]
    write_folder(tmp_path, layer, settings)
    group = settings["config_groups"]["group_0"]
    kind = settings["format"].replace("-", "_").split("_")[0].capitalize()
    kind = {"Pack": "Packed"}.get(kind, kind)
    compressor = getattr(package, f"{kind}QuantizationCompressor")
    scheme = scheme_of(targets=["Linear"], weights=_arguments(group["weights"]))
    state, checkpoint = load_file(tmp_path / "model.safetensors"), open_checkpoint(tmp_path)
    for name in random_weights(CONFIG):
        module = hf_name(name).removesuffix(".weight")
        if module.endswith(LINEARS):
            parts = {key.rpartition(".")[2]: value for key, value in state.items()
                     if key.startswith(f"{module}.") and "input" not in key}  # fmt: skip
            for key in ("weight_scale",):
                parts[key] = parts[key].float()
            expected = compressor.decompress(parts, scheme)["weight"].float().numpy()
            got = values(checkpoint.tensors[name])
            assert (np.abs(got - expected) <= 2.0**-11 * np.abs(expected) + 2.0**-25).all()


def _arguments(weights):
    """Settings that the package insists on, from what a folder says."""
    full = dict(weights)
    if "block_structure" in full:
        full["strategy"] = "block"
    elif "group_size" not in full and full["strategy"] == "group":
        full["strategy"] = "channel"
    return full


def test_transformers_fp8(tmp_path):
    """transformers dequantizes to bfloat16 on the CPU."""
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    layer, settings, _, _ = LAYOUTS["fp8 tiles"]
    write_folder(tmp_path, layer, settings)
    config = FineGrainedFP8Config(weight_block_size=(32, 32), dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
    state, checkpoint = model.state_dict(), open_checkpoint(tmp_path)
    for name in random_weights(CONFIG):
        expected = state[hf_name(name)].float().numpy()
        got = values(checkpoint.tensors[name])
        assert (np.abs(got - expected) <= 2.0**-7 * np.abs(expected) + 2.0**-25).all(), name
    with torch.no_grad():
        assert torch.isfinite(model(torch.tensor([IDS])).logits).all()
