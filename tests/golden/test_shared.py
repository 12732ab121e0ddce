"""The golden cases next to a checkout, where there are any: each on every ISA level."""

from pathlib import Path

import numpy as np
import pytest

from llama_rt import Llama, _native
from reference.model import relative_error

ISA_LEVELS = _native.cpu_info().tiers
FOLDER = Path(__file__).resolve().parents[2].parent / "shared" / "golden"
# Adapters and deltas are measured by tests of their own.
OTHERS = {"peft-lora", "delta-f32"}


def cases():
    folders = sorted(p.parent for p in FOLDER.glob("*/expected.npz"))
    found = [(p, p / "expected.npz") for p in folders if p.name not in OTHERS]
    found += [(p, p.with_suffix(".npz")) for p in sorted(FOLDER.glob("gguf/*.gguf"))]
    if not found:
        return [pytest.param(None, marks=pytest.mark.skip(reason="no shared golden cases here"))]
    return [pytest.param(case, id=case[0].name) for case in found]


def bound(path):
    """2e-3 for F32 and F16 weights, 1.5e-2 for BF16, 2.5e-2 with 8-bit activations."""
    name = path.name.lower()
    if "bf16" in name:
        return 1.5e-2
    return 2e-3 if "f16" in name or "f32" in name else 2.5e-2


@pytest.mark.parametrize("isa", [*ISA_LEVELS, None])
@pytest.mark.parametrize("case", cases())
def test_logits(case, isa):
    path, file = case
    with np.load(file) as expected:
        ids, logits = expected["ids"], expected["logits"]
    with Llama.load(path, isa=isa, progress=False) as llm:
        got = llm.logits(ids.tolist())
    assert got.shape == logits.shape
    assert relative_error(got, logits) <= bound(path)
