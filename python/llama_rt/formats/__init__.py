"""Containers: what a file says about its tensors, and where their bytes are.

A reader for each (`gguf`, `safetensors`, `pth` with `pickles` and `archive`, `ggml` with
`ggml_blocks`, `msgpack`) gives `records` over a file of `mapping`. Files are untrusted: counts and
bounds are checked before anything is allocated. What the tensors are is `checkpoint`'s.
"""
