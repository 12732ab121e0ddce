"""Trains the small sentencepiece model that the tiny checkpoints carry."""

import io
from pathlib import Path

# Enough different words for a few hundred merges, plus digits, punctuation and other scripts.
SENTENCES = """\
Once upon a time there was a small llama who lived at the foot of a high mountain.
Every morning the llama walked down to the river and drank the cold clear water.
One day a traveller came along the road with a heavy bag and a long story to tell.
"Where are you going?" asked the llama. "To the other side of the mountain," said the man.
The road was steep, the wind was strong, and by evening the first stars began to shine.
They rested under an old tree, ate bread and cheese, and talked until the fire went out.
In the night a storm came over the hills; thunder rolled and rain fell upon the leaves.
When the sun rose again the two friends saw the whole valley lying below them in the light.
The quick brown fox jumps over the lazy dog while seven wizards make toxic brew for queens.
Numbers such as 0, 1, 2, 3, 42, 365, 1024 and 98765 are split into single digits.
def forward(x): return x + attention(norm(x))  # code has spaces, (brackets) and_names
Questions, instructions and responses: Below is an instruction that describes a task.
Write a response that appropriately completes the request. ### Instruction: ### Response:
A conversation between a curious user and an assistant who gives helpful, polite answers.
USER: What is the capital of France? ASSISTANT: The capital of France is Paris.
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Où est la bibliothèque ?
El veloz murciélago hindú comía feliz cardillo y kiwi. Привет, мир! 日本語のテキスト。
Because nothing was left to say, they shook hands and promised to meet again next spring.
Years later people still told their children about the llama that crossed the mountain.
""".splitlines()


def train_tokenizer(folder: Path, pieces: int = 512) -> Path:
    """Writes `folder/tokenizer.model`, a BPE with byte fallback trained by LLaMA's recipe.

    Ids 0, 1, 2 are unk, bos and eos, then come 256 byte pieces, then merges and characters.
    """
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="bpe",
        vocab_size=pieces,
        character_coverage=0.98,
        split_digits=True,
        byte_fallback=True,
        allow_whitespace_only_pieces=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
        num_threads=1,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return path
