"""What `convert` writes reads text as its source does, or is not written."""

import json
import shutil
from dataclasses import replace

import pytest

from llama_rt import Llama
from llama_rt.checkpoint import open_checkpoint
from llama_rt.convert import conversion, convert, gguf_vocabulary
from llama_rt.convert.gguf_writer import Value, flag, string, unsigned
from llama_rt.errors import CheckpointError
from support.real_models import real_file

tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "def f(x):\n    return x + 12345\n",
    "Hello\n\n\n  world, I'LL don't",
    "<|im_start|>user\nhi<|im_end|>\n",
    "日本語 🦙",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)


@pytest.fixture
def chat_folder(tiny_hf_folder, tmp_path):
    """A model with a byte-level BPE, added tokens that strip, and a template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    options = {"vocab_size": 400, "special_tokens": specials, "show_progress": False}
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **options)
    made.train_from_iterator(TEXTS * 4, trainer)
    made.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<call>", rstrip=True)])
    folder = tmp_path / "chat"
    shutil.copytree(tiny_hf_folder, folder)
    (folder / "tokenizer.model").unlink()
    made.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def answers(path):
    with Llama.load(path, progress=False, threads=1) as llm:
        messages = [{"role": "user", "content": TEXTS[0]}]
        tokenizer = llm.tokenizer
        return [
            *(tokenizer.encode(text) for text in TEXTS),
            *(tokenizer.encode(text, special=True) for text in [*TEXTS, "a<call>  b<think> c"]),
            llm.find_template().render(messages),
            sorted(tokenizer.stop_ids),
            tokenizer.bos_id,
        ]


def test_a_file_reads_text_as_its_source(chat_folder, tmp_path):
    convert(chat_folder, tmp_path / "x.gguf", "f32")
    assert answers(tmp_path / "x.gguf") == answers(chat_folder)
    convert(tmp_path / "x.gguf", tmp_path / "y.gguf", "q8_0")
    assert answers(tmp_path / "y.gguf") == answers(chat_folder)


def test_a_folder_keeps_rules_and_template_of_a_file(tiny_gguf_file, tmp_path):
    convert(tiny_gguf_file, tmp_path / "out", "f32")
    config = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert config["add_bos_token"] is True
    assert config["bos_token"] == "<s>"
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {
        "eos_token_id": [2]
    }


WRONG: dict[str, tuple[str, Value | None, str]] = {
    "split": ("tokenizer.ggml.pre", string("llama-bpe"), "the text"),
    "begin": ("tokenizer.ggml.bos_token_id", unsigned(5), "begin-of-text gives 5"),
    "rule": ("tokenizer.ggml.add_bos_token", flag(True), "the text 'Hello world' gives"),
    "end": ("tokenizer.ggml.eot_token_id", unsigned(9), "the ids that end an answer"),
    "strip": ("tokenizer.llama_rt.rstrip_ids", None, r"the text 'a<call>b.* with its control"),
    "template": ("tokenizer.chat_template", string("{{ messages[0].content }}"), "a conversation"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_difference_is_named_and_nothing_is_left(chat_folder, tmp_path, monkeypatch, what):
    key, value, said = WRONG[what]
    right = gguf_vocabulary.vocabulary_keys

    def wrong(checkpoint):
        keys = right(checkpoint) | ({key: value} if value is not None else {})
        return keys if value is not None else {k: v for k, v in keys.items() if k != key}

    monkeypatch.setattr(gguf_vocabulary, "vocabulary_keys", wrong)
    with pytest.raises(CheckpointError, match=rf"x\.gguf: not written, because .*: {said}"):
        convert(chat_folder, tmp_path / "x.gguf", "f32")
    assert [file.name for file in tmp_path.iterdir()] == ["chat"]
    (tmp_path / "x.gguf").write_text("precious")
    with pytest.raises(CheckpointError):
        convert(chat_folder, tmp_path / "x.gguf", "f32", overwrite=True)
    assert (tmp_path / "x.gguf").read_text() == "precious"


def test_a_folder_that_differs_is_not_left(tiny_gguf_file, tmp_path, monkeypatch):
    from llama_rt.convert import hf_writer

    def wrong(_, folder):
        (folder / "tokenizer_config.json").write_text('{"add_bos_token": false}')

    monkeypatch.setattr(hf_writer, "_write_rules", wrong)
    with pytest.raises(CheckpointError, match="out: not written, because"):
        convert(tiny_gguf_file, tmp_path / "out", "f32")
    assert not list(tmp_path.glob("*out*"))


def test_a_real_model_is_proven(tmp_path):
    """SmolLM2: its own file again, quantized otherwise; the template and 49,152 tokens."""
    checkpoint = open_checkpoint(real_file("smollm2"))
    conversion.write_gguf(checkpoint, tmp_path / "x.gguf", "q4_0", progress=False)
    assert answers(tmp_path / "x.gguf") == answers(checkpoint.path)


def test_a_real_vocabulary_is_proven(tiny_hf_folder, tmp_path):
    """Mistral's own file, without weights: what a vocabulary becomes is all that is looked at."""
    name, called, rows = "mistral-v3", "tokenizer.model.v3", 32768
    folder = tmp_path / "model"
    shutil.copytree(tiny_hf_folder, folder)
    (folder / "tokenizer.model").unlink()
    shutil.copy(real_file(name), folder / called)
    checkpoint = open_checkpoint(folder)
    config = replace(checkpoint.config, vocab_size=rows)
    metadata = dict(checkpoint.metadata) | {"vocab_size": rows}
    checkpoint = replace(checkpoint, config=config, metadata=metadata)
    conversion.write_gguf(checkpoint, tmp_path / "x.gguf", "f32", progress=False)
