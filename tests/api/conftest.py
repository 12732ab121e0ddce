"""The tiny model, loaded once for the tests of the public surface."""

import pytest

from llama_rt import Llama


@pytest.fixture(scope="module")
def llm(tiny_hf_folder):
    """512 tokens, context 256, no chat template."""
    with Llama.load(tiny_hf_folder, threads=1, reproducible=True) as model:
        yield model
