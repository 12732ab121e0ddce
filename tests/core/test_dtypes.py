"""The dtype table says what the formats' definitions say."""

import pytest

from llama_rt import _native
from reference.blocks import FORMATS

TABLE = {row.name: row for row in _native.dtypes()}


def test_every_format_is_there():
    assert set(FORMATS) <= set(TABLE)


def test_every_row_has_a_reference():
    """A new row needs an independent decoder in `tests/reference/blocks.py`, and nothing else."""
    assert set(TABLE) <= set(FORMATS)


@pytest.mark.parametrize("name", TABLE)
def test_sizes_and_ids(name):
    row, expected = TABLE[name], FORMATS[name]
    assert (row.block_elements, row.block_bytes) == (expected.elements, expected.bytes)
    assert row.gguf_id == expected.gguf_id


def test_converter_formats_can_be_written():
    for name in ("f32", "f16", "bf16", "q8_0", "q4_0"):
        assert TABLE[name].encodable
