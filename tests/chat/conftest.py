"""The vocabularies of the tokenizer tests serve here too."""

from tokenizer.conftest import bpe_folder, bpe_library, real_model_file

__all__ = ["bpe_folder", "bpe_library", "real_model_file"]
