"""Patterns of adapter_config.json: what they match, against peft; and that none is waited for."""

import time
from pathlib import Path

import numpy as np
import pytest

from llama_rt.adapters.patterns import values_by_module
from llama_rt.errors import CheckpointError

SOURCE = Path("adapter_config.json")
MODULES = [
    f"model.layers.{layer}.{module}"
    for layer in range(32)
    for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.down_proj")
] + ["lm_head", "model.embed_tokens"]


def ranks(table, modules=MODULES):
    return values_by_module(SOURCE, {"r": 8, "rank_pattern": table}, "r", modules)


USUAL = [
    "q_proj",
    "layers.1.self_attn.q_proj",
    "model.layers.10.mlp.down_proj",
    "^model.layers.3.self_attn.q_proj$",
    r".*\.(q|v)_proj",
    r".*\.0\..*gate_proj",
    "model.layers.[0-9]+.self_attn.q_proj",
    r"layers\.(1[0-9]|2[0-3])\..*",
    r"(?:.*\.)?layers\.(?:[02468]|1[02468]).self_attn\.\w+",
    r".*layers.*self_attn.*(q|k|v|o|gate|up|down)_proj",
    r"(self_attn\.)?v_proj",
    r"model\.layers\.(?!1\.)\d{1,2}\.mlp\..+",
    "lm_head|model.embed_tokens",
    r"(?P<layer>layers)\.5\.mlp\.[^.]+",
]


def test_what_users_write_against_peft():
    other = pytest.importorskip("peft.utils.other")
    rng = np.random.default_rng(1)
    for _ in range(60):
        chosen = rng.permutation(USUAL)[: rng.integers(1, 4)].tolist()
        table = {pattern: 20 + i for i, pattern in enumerate(chosen)}
        found = ranks(table)
        for module in MODULES:
            assert found[module] == table.get(other.get_pattern_key(table, module), 8)
    for pattern in USUAL:
        assert 20 in ranks({pattern: 20}).values(), pattern


def test_a_pattern_for_every_matrix_of_the_largest_model():
    modules = [
        f"model.layers.{layer}.self_attn.m{m}_proj" for layer in range(126) for m in range(7)
    ]
    begin = time.monotonic()
    found = ranks({name: 1 + i for i, name in enumerate(modules)}, modules)
    assert list(found.values()) == list(range(1, len(modules) + 1))
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    "pattern",
    [
        "(.*)*!", "((([a-z0-9_.]+)+)+)+!", "(.?){200}!", "(a|a|.)*.*.*!", "(..|.)" * 60 + "!",
        ".?" * 60 + "!", ".*" * 40 + "!", "(?:.|..)+!", "(?x: (.*) * !)", "(.*)(?#)*!",
        "(.*) *!", "(?=(.*)*!)x", r"[]]*[^]]*[\]]*(.*){9}!", r"\((.+)+!", "((.?)?.?)?" * 20 + "!",
        "x" * 513, "(?i:q)", "[\u0100-\uffff]", "[\\u0100-\\uffff]", r"\N{BULLET}", "(a)(?(1)b|c)",
        "a{99999999999}", "(",
    ],
)  # fmt: skip
def test_no_pattern_is_waited_for(pattern):
    begin = time.monotonic()
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: rank_pattern holds"):
        ranks({pattern: 2})
    assert time.monotonic() - begin < 2


def test_tables_that_are_too_much():
    for table in (
        {f"q{'q' * 100}{i}": 1 for i in range(1000)},
        {f".*{i}.*q.*p": 1 for i in range(200)},
    ):
        with pytest.raises(CheckpointError, match="rank_pattern holds"):
            ranks(table)


def test_any_pattern_ends_soon():
    """Random ones: refused, or matched in a time that their cost promises."""
    rng = np.random.default_rng(3)
    parts = ["a", ".", "q", r"\.", r"\w", "[a-z]", "[^.]", "(", "(?:", "(?=", "(?!", ")", "|", "*",
             "+", "?", "{2}", "{0,9}", "*?", "x", "_proj", "!"]  # fmt: skip
    matched = 0
    for _ in range(3000):
        pattern = "".join(rng.choice(parts, rng.integers(1, 25)))
        begin = time.monotonic()
        try:
            ranks({pattern: 2}, MODULES[:40])
        except CheckpointError:
            continue
        matched += 1
        assert time.monotonic() - begin < 5, pattern
    assert matched > 100
