"""SentencePiece tokenizers: from `tokenizer.model`, `tokenizer.json` or a GGUF vocabulary."""
