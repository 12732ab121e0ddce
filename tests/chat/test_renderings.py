"""Renderings of templates of many constructs, against transformers: texts and ids."""

import tempfile

import pytest

from chat.compare_rendering import CONVERSATIONS, difference, tokenizers_with
from chat.constructs import TEMPLATES

pytest.importorskip("transformers")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "think"])
def tokenizers(request):
    with tempfile.TemporaryDirectory() as folder:
        yield tokenizers_with(folder, think=request.param)


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_render_as_with_transformers(tokenizers, template):
    for cue in (True, False):
        for name, conversation in CONVERSATIONS.items():
            source = TEMPLATES[template]
            found = difference(source, conversation, tokenizers, add_generation_prompt=cue)
            assert found is None, (name, cue, found)


@pytest.mark.parametrize("begun", ["Well, ", "<think>\nso far", "日本 "])
@pytest.mark.parametrize("template", ["chatml", "role within a token", "text or parts"])
def test_a_begun_answer_is_continued_as_with_transformers(tokenizers, template, begun):
    messages = [*CONVERSATIONS["turns"][0], {"role": "assistant", "content": begun}]
    conversation = messages, {}
    source = TEMPLATES[template]
    assert difference(source, conversation, tokenizers, continue_final_message=True) is None
