"""Text to token ids and back: sentencepiece (files and GGUF vocabularies) and byte-level BPE.

Imports neither sentencepiece nor tokenizers before a tokenizer is opened.
"""

from llama_rt.tokenizer.loader import find_tokenizer, load_tokenizer
from llama_rt.tokenizer.protocol import StreamDecoder, Tokenizer
from llama_rt.tokenizer.settings import TokenizerSettings
from llama_rt.tokenizer.special import AddedToken

__all__ = [
    "AddedToken",
    "StreamDecoder",
    "Tokenizer",
    "TokenizerSettings",
    "find_tokenizer",
    "load_tokenizer",
]
