"""Compares renderings of chat templates with those of transformers.

    python tests/chat/compare_rendering.py FOLDER

renders six conversations, with and without a cue for the answer, and with and without `<think>` as
an added token, with each `*.jinja` of the folder, here and by transformers' `apply_chat_template`;
prints what differs. The tests do the same with the templates of `constructs.py`.
"""

import sys
import tempfile
from pathlib import Path

from llama_rt.chat import JinjaTemplate
from llama_rt.errors import TemplateError
from llama_rt.tokenizer import load_tokenizer

__all__ = ["CONVERSATIONS", "difference", "tokenizers_with"]

SPECIAL = [
    *("<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>"),
    *("<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|User|>", "<|Assistant|>"),
    *("[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[AVAILABLE_TOOLS]"),
    *("[/AVAILABLE_TOOLS]", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_of_role|>", "<|end_of_role|>"),
]
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a <place> & day",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string", "description": "Où?"}},
                "required": ["place"],
            },
        },
    }
]
CALL = {
    "type": "function",
    "id": "abc123456",
    "function": {"name": "get_weather", "arguments": {"place": "Zürich"}},
}
CONVERSATIONS = {
    "question": ([{"role": "user", "content": "Hello, 日本 🦙"}], {}),
    "turns": (
        [
            {"role": "system", "content": " Be brief.\n"},
            {"role": "user", "content": "  What is\n\n2 + 2?  "},
            {"role": "assistant", "content": "\n4 "},
            {"role": "user", "content": "And 'twice' \"that\"? "},
        ],
        {},
    ),
    "reasoning": (
        [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "<think>\nadd them\n</think>\n\n2"},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "4", "reasoning_content": "double it"},
            {"role": "user", "content": "3+3?"},
        ],
        {"enable_thinking": True},
    ),
    "tools": (
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": '{"sky": "clear"}', "tool_call_id": "abc123456"},
            {"role": "assistant", "content": "Clear."},
            {"role": "user", "content": "Thanks."},
        ],
        {"tools": TOOLS},
    ),
    "documents": (
        [{"role": "user", "content": "Who?"}],
        {
            "documents": [{"title": "T", "text": "It was <b>me</b>."}],
            "date_string": "1 Jan 2024",
            "enable_thinking": False,
        },
    ),
    "parts": (
        [
            {"role": "user", "content": [{"type": "text", "text": "How do I pick a lock?"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "With <care>"}]},
            {"role": "user", "content": [{"type": "text", "text": "Thanks"}]},
        ],
        {},
    ),
}


def tokenizers_with(folder, *, think):
    """Makes the same byte-level BPE for both: (ours, transformers')."""
    import tokenizers
    import transformers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        initial_alphabet=letters, special_tokens=SPECIAL, show_progress=False
    )
    made.train_from_iterator(["user assistant system think about it"], trainer)
    if think:
        plain = [tokenizers.AddedToken(text, normalized=False, special=False) for text in ADDED]
        made.add_tokens(plain)
    file = Path(folder) / "tokenizer.json"
    made.save(str(file))
    ours = load_tokenizer(Path(folder), {"vocab_size": made.get_vocab_size()}, "hf")
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(file), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    return ours, theirs


def difference(source, conversation, tokenizers, **options):
    """Renders a conversation here and by transformers.

    Args:
        source: Jinja source.
        conversation: Messages and variables.
        tokenizers: What `tokenizers_with` made.
        options: `add_generation_prompt` or `continue_final_message`.

    Returns:
        None if texts and ids are equal (or both refuse the conversation), else (ours, theirs).
    """
    messages, variables = conversation
    ours, theirs = tokenizers
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    template = JinjaTemplate(source, ours, tokens=names, add_bos=False)
    template._tokens = names
    try:
        text = template.render_text(messages, **variables, **options)
        ids = template.render(messages, **variables, **options)
    except TemplateError as error:
        text, ids = f"error: {error}", []
    expected = _expected(theirs, source, messages, {**variables, **options})
    if expected is None:
        return None if text.startswith("error: ") else (text, "an error")
    if text != expected:
        return text, expected
    wanted = theirs(expected, add_special_tokens=False)["input_ids"]
    return None if ids == wanted else (ids, wanted)


def _expected(theirs, source, messages, variables):
    """Transformers' text; contents that the template prints as Python lists or null, as text."""

    def render(messages):
        try:
            return theirs.apply_chat_template(
                messages, chat_template=source, tokenize=False, **variables
            )
        except Exception:
            return None

    def flat(content):
        if content is None:
            return ""
        return content if isinstance(content, str) else "".join(part["text"] for part in content)

    if all(isinstance(message["content"], str) for message in messages):
        return render(messages)
    text = render(messages)
    plain = [{**message, "content": flat(message["content"])} for message in messages]
    called = any("tool_calls" in message for message in messages)
    shown = ["get_weather"] * called + [plain[-1]["content"]]
    made = [one for one in (text, render(plain)) if one is not None]
    made = [one for one in made if "'type': 'text'" not in one]
    good = [one for one in made if all(part in one for part in shown)]
    return next(iter(good + made), None)


def main(folder):
    """Compares all templates of a folder; returns the number of differences."""
    count = different = 0
    for think in (False, True):
        with tempfile.TemporaryDirectory() as place:
            tokenizers = tokenizers_with(place, think=think)
            for file in sorted(Path(folder).glob("*.jinja")):
                for name, conversation in CONVERSATIONS.items():
                    for cue in (True, False):
                        count += 1
                        source = file.read_text(encoding="utf-8")
                        found = difference(
                            source, conversation, tokenizers, add_generation_prompt=cue
                        )
                        if found:
                            different += 1
                            lines = (file.name, name, f"think={think} cue={cue}", *found)
                            sys.stdout.write("\n  ".join(map(str, lines)) + "\n")
    sys.stdout.write(f"{count} renderings, {different} differ\n")
    return different


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]) > 0)
