"""Byte-level BPE of Llama 3: from `tokenizer.json`, a rank file or a GGUF vocabulary."""
