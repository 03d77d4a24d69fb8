"""SPEED in transformers: slow and obviously right. Every fast path is compared with it, and training starts here.

Importing this package registers the configuration with transformers' AutoConfig and nothing else, because the
serving side needs no more; importing `sglang_speed.reference.modeling` registers the model. Never imports sglang.

modeling    transformers' models in depth bands: the shallow band over all tokens, a deep band over its deep tokens
filled      keys and values that a deep band has of tokens that it does not compute
selected    which tokens of a prompt are deep because others attend to them
generation  greedy generation and scores of one request
training    every assistant turn of a conversation as it will be served, in one forward
"""

from sglang_speed.models.hf_config import SpeedLlamaConfig, register

register()

__all__ = ["SpeedLlamaConfig", "register"]
