"""What a model is: its sizes and rules, read from params.json, config.json or GGUF keys.

Knows the key names and defaults of each format; opens no file and sees no tensor (readers pass in
what only tensors can tell).
"""

from llama_rt.config.config_json import from_hf
from llama_rt.config.gguf_keys import from_gguf
from llama_rt.config.model_config import ModelConfig, RopeScaling
from llama_rt.config.params_json import check_params, feed_forward_width, from_meta

__all__ = [
    "ModelConfig",
    "RopeScaling",
    "check_params",
    "feed_forward_width",
    "from_gguf",
    "from_hf",
    "from_meta",
]
