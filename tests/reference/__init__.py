"""A float64 LLaMA, independent block decoders and checkpoint writers: what the tests compare with.

Nothing in this package imports llama_rt.
"""
