"""Text to token ids and back: sentencepiece (files and GGUF vocabularies) and byte-level BPE.

Imports neither sentencepiece nor tokenizers before a tokenizer is opened.
"""

from llama_rt.tokenizer.loader import load_tokenizer
from llama_rt.tokenizer.protocol import StreamDecoder, Tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]
