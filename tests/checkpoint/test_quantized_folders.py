"""Folders quantized as published: every layout against its formula in float64, and its logits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint.published import (
    CONFIG,
    awq,
    bnb_4bit,
    change_config,
    gptq,
    hqq,
    integers,
    pack,
    write_folder,
)
from formats.stored import values
from llama_rt import Llama
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError, ConfigError
from reference.model import forward, relative_error

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
WQ = "layers.0.attention.wq.weight"


def gptq_settings(bits, group, **more):
    return {"quant_method": "gptq", "bits": bits, "group_size": group, "sym": True} | more


def awq_settings(group, version):
    return {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True,
            "version": version}  # fmt: skip


def packed(bits, group, *, symmetric=True, dtype=torch.bfloat16, old_zeros=False, order=False):
    """compressed-tensors `pack-quantized`: numbers and zero points packed with half their range."""

    def layer(weight, rng):
        width = weight.shape[1]
        groups = np.arange(width) // group
        which = rng.permutation(groups) if order else None
        q, zero, scale, expected, which = integers(
            weight, rng, bits, group, symmetric=symmetric, dtype=dtype, order=which
        )
        parts = {"weight_packed": pack(q, bits), "weight_scale": scale,
                 "weight_shape": np.array(weight.shape)}  # fmt: skip
        if not symmetric:
            signed = (zero - (1 << (bits - 1))).astype(np.int8)
            parts["weight_zero_point"] = signed if old_zeros else pack(zero.T, bits).T
        if order:
            parts["weight_g_idx"] = which.astype(np.int32)
        return parts, expected

    return layer


def whole(*, per="channel", symmetric=True):
    """`int-quantized`: int8 with a scale for each row, or one for all."""

    def layer(weight, rng):
        q = rng.integers(-128, 128, weight.shape).astype(np.int8)
        count = (len(q), 1) if per == "channel" else (1,)
        scale = torch.from_numpy(np.abs(weight).max() / 127 * rng.uniform(0.5, 1, count))
        scale = scale.bfloat16()
        zero = np.zeros(count, np.int8) if symmetric else rng.integers(-9, 9, count, np.int8)
        parts = {"weight": q, "weight_scale": scale}
        parts |= {} if symmetric else {"weight_zero_point": zero}
        return parts, scale.double().numpy() * (q.astype(np.float64) - zero)

    return layer


def compressed(form, **weights):
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "group"} | weights
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
            "config_groups": {"group_0": group}}  # fmt: skip


def eight_bit_float(name, shape_of, dtype=torch.float32):
    """FP8 with scales of `shape_of(rows, columns)`."""

    def layer(weight, rng):
        shape = shape_of(*weight.shape)
        scale = torch.from_numpy(np.abs(weight).max() / 448 * rng.uniform(0.5, 1, shape)).to(dtype)
        q = torch.from_numpy(rng.uniform(-448, 448, weight.shape)).to(torch.float8_e4m3fn)
        wide = scale.double().numpy().reshape(*shape, *[1] * (2 - len(shape)))
        tile = [-(-n // m) for n, m in zip(weight.shape, wide.shape, strict=True)]
        if tile[0] > 1 and len(shape) == 2:
            tile = [32, 32]
        wide = np.repeat(np.repeat(wide, tile[0], 0), tile[1], 1)[: len(q), : weight.shape[1]]
        parts = {"weight": q, name: scale, "input_scale": np.ones(1, np.float32)}
        return parts, q.double().numpy() * wide

    return layer


def int8_rows(weight, rng):
    """bitsandbytes int8."""
    q = rng.integers(-127, 128, weight.shape).astype(np.int8)
    peak = (np.abs(weight).max() * rng.uniform(0.5, 1, len(q))).astype(np.float32)
    parts = {"weight": q, "SCB": peak, "weight_format": np.array(0, np.uint8)}
    return parts, q * peak.astype(np.float64)[:, None] / 127


def hqq_settings(bits, group, axis):
    inner = {"nbits": bits, "group_size": group, "axis": axis, "bitpack": True}
    return {"quant_method": "hqq", "quant_config": {"weight_quant_params": inner}}


def bnb(**more):
    return {"quant_method": "bitsandbytes", "load_in_4bit": True} | more


def tiles(rows, columns):
    return -(-rows // 32), -(-columns // 32)


# name: (layer, settings, type, what is lost)
LAYOUTS = {
    "gptq 4 bits": (gptq(4, 32), gptq_settings(4, 32), "q4_0", "nothing"),
    "gptq 2 bits": (gptq(2, 32), gptq_settings(2, 32), "q4_0", "nothing"),
    "gptq 3 bits": (gptq(3, 32), gptq_settings(3, 32), "q4_0", "nothing"),
    "gptq 8 bits": (gptq(8, 32), gptq_settings(8, 32), "q8_0", "nothing"),
    "gptq rows": (gptq(4, -1), gptq_settings(4, -1), "q4_0", "nothing"),
    "gptq v2": (gptq(4, 32, version=2), gptq_settings(4, 32, checkpoint_format="gptq_v2"),
                "q4_0", "nothing"),
    "gptq bf16": (gptq(4, 32, dtype=torch.bfloat16), gptq_settings(4, 32), "q4_0", "nothing"),
    "gptq zeros": (gptq(4, 32, symmetric=False), gptq_settings(4, 32, sym=False),
                   "q5_0", "nothing"),
    "gptq zeros v2": (gptq(4, 32, symmetric=False, version=2),
                      gptq_settings(4, 32, sym=False, checkpoint_format="gptq_v2"),
                      "q5_0", "nothing"),
    "gptq 3 bits zeros": (gptq(3, 32, symmetric=False), gptq_settings(3, 32, sym=False),
                          "q4_0", "nothing"),
    "gptq 8 bits zeros": (gptq(8, 32, symmetric=False), gptq_settings(8, 32, sym=False),
                          "f16", "halves"),
    "gptq says sym, is not": (gptq(4, 32, symmetric=False), gptq_settings(4, 32),
                              "q5_0", "nothing"),
    "gptq act-order": (gptq(4, 32, act_order=True), gptq_settings(4, 32, desc_act=True),
                       "f16", "halves"),
    "gptq 16": (gptq(4, 16), gptq_settings(4, 16), "f16", "halves"),
    "awq gemm": (awq("gemm", 32), awq_settings(32, "gemm"), "q5_0", "nothing"),
    "awq gemv": (awq("gemv", 32), awq_settings(32, "gemv"), "q5_0", "nothing"),
    "awq gemm 16": (awq("gemm", 16), awq_settings(16, "GEMM"), "f16", "halves"),
    "w4a16": (packed(4, 32), compressed("pack-quantized", num_bits=4, group_size=32),
              "q4_0", "nothing"),
    "w4a16 zeros": (packed(4, 32, symmetric=False),
                    compressed("pack-quantized", num_bits=4, group_size=32, symmetric=False),
                    "q5_0", "nothing"),
    "w4a16 old zeros": (packed(4, 32, symmetric=False, old_zeros=True),
                        compressed("pack-quantized", num_bits=4, group_size=32, symmetric=False),
                        "q5_0", "nothing"),
    "w4a16 act-order": (packed(4, 32, order=True),
                        compressed("pack-quantized", num_bits=4, group_size=32), "f16", "halves"),
    "w3a16": (packed(3, 32), compressed("pack-quantized", num_bits=3, group_size=32),
              "q4_0", "nothing"),
    "w8a16": (packed(8, 32, dtype=torch.float16), compressed("pack-quantized", group_size=32),
              "q8_0", "nothing"),
    "w8a8": (whole(), compressed("int-quantized", strategy="channel"), "q8_0", "nothing"),
    "w8a8 tensor": (whole(per="tensor"), compressed("naive-quantized", strategy="tensor"),
                    "q8_0", "nothing"),
    "w8a8 zeros": (whole(symmetric=False), compressed("int-quantized", symmetric=False),
                   "f16", "halves"),
    "fp8 compressed": (eight_bit_float("weight_scale", lambda n, _: (n, 1), torch.bfloat16),
                       compressed("float-quantized", type="float"), "f16", "halves"),
    "fp8 compressed tiles": (eight_bit_float("weight_scale", tiles),
                             compressed("float-quantized", type="float", block_structure=[32, 32]),
                             "f16", "halves"),
    "fp8 tiles": (eight_bit_float("weight_scale_inv", tiles),
                  {"quant_method": "fp8", "weight_block_size": [32, 32]}, "f16", "halves"),
    "fp8 tensor": (eight_bit_float("weight_scale", lambda _n, _k: (1,)),
                   {"quant_method": "fp8", "activation_scheme": "static"}, "f16", "halves"),
    "fbgemm": (eight_bit_float("weight_scale", lambda n, _: (n, 1)),
               {"quant_method": "fbgemm_fp8"}, "f16", "halves"),
    "modelopt": (eight_bit_float("weight_scale", lambda _n, _k: (1,)),
                 {"quant_method": "modelopt", "quant_algo": "FP8"}, "f16", "halves"),
    "nf4": (bnb_4bit("nf4"), bnb(bnb_4bit_quant_type="nf4"), "f16", "halves"),
    "nf4 nested": (bnb_4bit("nf4", nested=True),
                   bnb(bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
                   "f16", "halves"),
    "nf4 in bf16": (bnb_4bit("nf4", storage=torch.bfloat16), bnb(), "f16", "halves"),
    "fp4": (bnb_4bit("fp4", nested=True), bnb(bnb_4bit_quant_type="fp4"), "f16", "halves"),
    "int8": (int8_rows, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "q8_0", "scales"),
    "hqq 4 bits": (hqq(4, 32, 1), hqq_settings(4, 32, 1), "q4_1", "minima"),
    "hqq 3 bits": (hqq(3, 32, 1), hqq_settings(3, 32, 1), "q4_1", "minima"),
    "hqq 2 bits": (hqq(2, 16, 1), hqq_settings(2, 16, 1), "f16", "halves"),
    "hqq 8 bits": (hqq(8, 64, 1), hqq_settings(8, 64, 1), "f16", "halves"),
    "hqq columns": (hqq(4, 64, 0), hqq_settings(4, 64, 0), "f16", "halves"),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_values_are_those_of_the_formula(tmp_path, layout):
    layer, settings, dtype, loss = LAYOUTS[layout]
    expected = write_folder(tmp_path, layer, settings)
    checkpoint = open_checkpoint(tmp_path)
    assert f"14 matrices as {dtype}" in checkpoint.quantization
    for name, weights in expected.items():
        record = checkpoint.tensors[name]
        got = values(record).astype(np.float64)
        if record.dtype == "f32":
            assert np.array_equal(got, weights)
            continue
        assert record.dtype == dtype
        error = np.abs(got - weights)
        if loss == "nothing":
            assert not error.any()
        elif loss == "minima":  # of at most 8 steps here: a half has 11 bits
            assert (error <= 2.0**-11 * np.abs(weights).max()).all()
        else:  # one rounding to a half, of the weight or of its scale
            assert (error <= 2.0**-11 * np.abs(weights) + 2.0**-25).all()


LOGITS = ("gptq zeros", "gptq act-order", "awq gemm", "w4a16", "fp8 tiles", "nf4 nested", "int8",
          "hqq 4 bits")  # fmt: skip


@pytest.mark.parametrize("layout", LOGITS)
def test_logits(tmp_path, layout, tiny_hf_folder):
    layer, settings, _, loss = LAYOUTS[layout]
    weights = write_folder(tmp_path, layer, settings)
    for file in tiny_hf_folder.glob("token*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    expected = forward(replace(CONFIG, rope_style="halves"), weights, IDS)
    with Llama.load(tmp_path, kv_dtype="f32", quantize="f32") as llm:
        bound = 1e-4 if loss == "nothing" else 2e-3
        assert relative_error(llm.logits(IDS), expected) < bound
    with Llama.load(tmp_path, kv_dtype="f32") as llm:  # blocks meet activations of 8 bits
        assert relative_error(llm.logits(IDS), expected) < 5e-2


def test_settings_beside_the_configuration(tmp_path):
    """AutoGPTQ's first files: quantize_config.json, and a name of its own."""
    expected = write_folder(tmp_path, gptq(4, 32), None)
    settings = {"bits": 4, "group_size": 32, "desc_act": False, "sym": True}
    (tmp_path / "quantize_config.json").write_text(json.dumps(settings))
    (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-32g.safetensors")
    record = open_checkpoint(tmp_path).tensors[WQ]
    assert np.array_equal(values(record), expected[WQ])


def test_pickled_file(tmp_path):
    expected = write_folder(tmp_path, awq("gemm", 32), awq_settings(32, "gemm"))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert np.array_equal(values(open_checkpoint(tmp_path).tensors[WQ]), expected[WQ])


REFUSED = {
    "method": ({"quant_method": "exl2"}, "'exl2', not supported: its layout"),
    "unknown": ({"quant_method": "brandnew"}, "'brandnew', not supported; supported: gptq"),
    "no method": ({"bits": 4}, "quant_method"),
    "marlin": (gptq_settings(4, 32, checkpoint_format="marlin"), "one GPU kernel"),
    "is_marlin": (gptq_settings(4, 32, is_marlin_format=True), "one GPU kernel"),
    "5 bits": (gptq_settings(5, 32), "bits' is 5"),
    "dynamic": (gptq_settings(4, 32, dynamic={"+:.*down.*": {"bits": 8}}), "other bits"),
    "gemv_fast": (awq_settings(32, "gemv_fast"), "'gemv_fast', weights interleaved"),
    "nvfp4": (compressed("nvfp4-pack-quantized", num_bits=4, type="float"), "nvfp4-pack"),
    "float4": (compressed("naive-quantized", num_bits=4, type="float"), "'float' of 4 bits"),
    "sparse": (compressed("dense") | {"sparsity_config": {"format": "sparse-24-bitmask"}},
               "sparse-24-bitmask"),
    "rotated": (compressed("dense") | {"transform_config": {"config_groups": {"R1": {}}}},
                "rotates activations"),
    "e5m2": ({"quant_method": "fp8", "fmt": "e5m2"}, "'e5m2'"),
    "modelopt": ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "'NVFP4'"),
    "hqq layers": ({"quant_method": "hqq", "quant_config": {"self_attn.q_proj": {}}}, "each layer"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_before_tensors_are(tmp_path, case):
    settings, reason = REFUSED[case]
    write_folder(tmp_path, lambda weight, _: ({"odd": weight}, weight), settings)
    with pytest.raises(ConfigError, match=reason) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)


def test_no_word_of_how(tmp_path):
    write_folder(tmp_path, gptq(4, 32), None)
    with pytest.raises(CheckpointError, match=r"no quantization_config that says how"):
        open_checkpoint(tmp_path)


def rewrite(folder, suffix, change):
    """Changes, or removes, the first tensor that ends so."""
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith(suffix))
    new = change(state.pop(name))
    save_file(state | ({} if new is None else {name: new.contiguous()}), path)


def read_all(folder):
    for record in open_checkpoint(folder).tensors.values():
        record.read()


DAMAGES = {
    "no zeros": (".qzeros", lambda _: None, "qzeros' is missing"),
    "zeros of another shape": (".qzeros", lambda t: t[:, :-1], "expected"),
    "scales of another type": (".scales", lambda t: t.int(), "f16 or bf16 or f32"),
    "scales of another shape": (".scales", lambda t: t[:-1], "expected"),
    "words of another type": (".qweight", lambda t: t.float(), "i32 was expected"),
    "a group that is not there": (".g_idx", lambda t: t * 9, "there are"),
    "other rows": (".qweight", lambda t: t[:-4], "expected"),
    "an infinite scale": (".scales", lambda t: t / 0, "cannot hold"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_parts_are_named(tmp_path, case):
    suffix, change, reason = DAMAGES[case]
    write_folder(tmp_path, gptq(4, 32), gptq_settings(4, 32))
    rewrite(tmp_path, suffix, change)
    with pytest.raises(CheckpointError, match=reason):
        read_all(tmp_path)


def test_unquantized_layers_stay(tmp_path):
    """`modules_to_not_convert`: a plain matrix among the others."""

    def layer(weight, rng):
        if weight.shape == (32, 64):
            return {"weight": weight}, weight.astype(np.float64)
        return gptq(4, 32)(weight, rng)

    expected = write_folder(tmp_path, layer, gptq_settings(4, 32))
    checkpoint = open_checkpoint(tmp_path)
    name = "layers.1.attention.wk.weight"
    assert np.array_equal(values(checkpoint.tensors[name]), expected[name])
    assert "10 matrices as q4_0" in checkpoint.quantization


def test_converted_and_quantized_again(tmp_path):
    from llama_rt.convert import convert

    write_folder(tmp_path / "a", bnb_4bit("nf4"), bnb())
    change_config(tmp_path / "a", vocab_size=CONFIG.vocab_size)
    convert(tmp_path / "a", tmp_path / "out.gguf", "q8_0")
    assert open_checkpoint(tmp_path / "out.gguf").tensors[WQ].dtype == "q8_0"
