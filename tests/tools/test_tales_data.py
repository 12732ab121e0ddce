"""The tokenizer's recipe, the reading of corpora, the packing of windows."""

import lzma

import numpy as np
import pytest
import sentencepiece as spm
from tales_data import (
    BOS,
    EOS,
    Corpus,
    encode_stories,
    epoch_windows,
    load_corpus,
    prepare,
    read_stories,
    train_tokenizer,
    whole_tale_windows,
)

STORIES = [
    f"Once upon a time there lived a king number {n * 37}.\n\nHe had {n} sons, and they were glad."
    for n in range(60)
]


@pytest.fixture(scope="module")
def tokenizer():
    return spm.SentencePieceProcessor(model_proto=train_tokenizer(STORIES, 330, threads=1))


def test_stories_are_split_at_separator_lines_and_otherwise_unchanged(tmp_path):
    text = (
        "One.\n\nStill  one: <|story|> inside.\n\n<|story|>\n\nTwo.\n<|story|>\n\n<|story|>\nThree."
    )
    expected = ["One.\n\nStill  one: <|story|> inside.", "Two.", "Three."]
    (tmp_path / "a.txt").write_text(text)
    (tmp_path / "a.txt.xz").write_bytes(lzma.compress(text.encode()))
    assert read_stories(tmp_path / "a.txt") == expected
    assert read_stories(tmp_path / "a.txt.xz") == expected


def test_control_and_byte_pieces_lie_where_llama_has_them(tokenizer):
    assert tokenizer.get_piece_size() == 330
    assert [tokenizer.id_to_piece(i) for i in range(3)] == ["<unk>", "<s>", "</s>"]
    assert (tokenizer.unk_id(), tokenizer.bos_id(), tokenizer.eos_id()) == (0, BOS, EOS)
    assert tokenizer.pad_id() == -1
    assert [tokenizer.id_to_piece(3 + b) for b in (0, 10, 255)] == ["<0x00>", "<0x0A>", "<0xFF>"]
    assert all(tokenizer.is_byte(3 + b) for b in range(256))


@pytest.mark.parametrize(
    "text", ["a king", "two  spaces ", "\n\nA line\n", "12345", "caf\u00e9 \u65e5\u672c \U0001f600"]
)
def test_text_comes_back_unchanged(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_recipe_details(tokenizer):
    assert tokenizer.encode("king", out_type=str)[0].startswith("\u2581")  # dummy prefix
    assert tokenizer.encode("\n")[-1] == 3 + 10  # newline is a byte
    digits = tokenizer.encode("1234", out_type=str)
    assert [piece for piece in digits if piece != "\u2581"] == ["1", "2", "3", "4"]


def test_stories_are_bos_text_eos(tokenizer):
    corpus = encode_stories(STORIES[:5], tokenizer)
    assert corpus.characters == sum(map(len, STORIES[:5]))
    for ids, story in zip(corpus.stories(), STORIES, strict=False):
        assert (ids[0], ids[-1]) == (BOS, EOS)
        assert tokenizer.decode(ids[1:-1].tolist()) == story


def numbered(lengths):
    starts = np.cumsum([0, *lengths])
    return Corpus(np.arange(starts[-1], dtype=np.uint16), starts, 0)


def test_windows_cover_an_epoch_once_and_overlap_by_the_target():
    corpus = numbered([7, 30, 12, 51, 100])
    table = epoch_windows(corpus, 8, seed=3, epoch=0)
    assert table.shape == (24, 9)
    inputs = table[:, :-1].ravel()
    assert len(np.unique(inputs)) == len(inputs) == 192
    follower = dict(zip(table[:, :-1].ravel(), table[:, 1:].ravel(), strict=True))
    within = [follower[i] == i + 1 for i in range(199) if i in follower]
    assert np.mean(within) > 0.95  # only the story boundaries break the order


def test_windows_depend_on_seed_and_epoch_alone():
    corpus = numbered([7, 30, 12, 51, 100])
    first = epoch_windows(corpus, 8, 3, 1)
    assert np.array_equal(first, epoch_windows(corpus, 8, 3, 1))
    assert not np.array_equal(first, epoch_windows(corpus, 8, 3, 2))
    assert not np.array_equal(first, epoch_windows(corpus, 8, 4, 1))


def test_whole_tales_begin_windows_and_fit():
    lengths = [7, 30, 12, 51, 100, 9, 60]
    corpus = numbered(lengths)
    table = whole_tale_windows(corpus, 59, seed=3, epoch=0)
    assert table.shape[1] == 60
    begins = set(corpus.starts[:-1][np.array(lengths) <= 60].tolist())
    assert set(table[:, 0].tolist()) <= begins
    ends = corpus.starts[1:][np.array(lengths) <= 60] - 1
    for row in table:
        assert np.isin(ends, row).any()  # the first story is there to its end
    assert not np.isin(table, np.arange(100, 200)).any()
    assert np.array_equal(table, whole_tale_windows(corpus, 59, 3, 0))


def test_prepared_folder_reads_back(tmp_path):
    (tmp_path / "train.txt").write_text("\n<|story|>\n".join(STORIES))
    (tmp_path / "held.txt").write_text(STORIES[0])
    prepare(tmp_path / "train.txt", tmp_path / "held.txt", tmp_path / "data", 330, 1)
    data = load_corpus(tmp_path / "data" / "train.npz")
    held = load_corpus(tmp_path / "data" / "heldout.npz")
    assert len(data.starts) == 61
    assert np.array_equal(next(held.stories()), next(data.stories()))
    assert held.characters == len(STORIES[0])
