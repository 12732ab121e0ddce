"""The public API: `Llama`, from loading to text.

`load` composes checkpoint, native model, runner and engine; `weights` streams tensors into the
native model; `prompts` and `calls` turn what callers write into requests; `forward` gives numbers;
`adapters` is what is said about adapters.
"""

from llama_rt.llama.model import Llama

__all__ = ["Llama"]
