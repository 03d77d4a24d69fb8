"""SPEED in transformers: slow and obviously right. Every fast path is compared with it, and training starts here.

Importing this package registers the configuration with transformers' AutoConfig and nothing else, because the
serving side needs no more; importing `sglang_speed.reference.modeling` registers the model. Never imports sglang.

configuration.py   SpeedLlamaConfig: a Llama configuration with a `speed` object
modeling.py        SpeedLlamaForCausalLM: the shallow band over all tokens, the deep band over the deep tokens
generation.py      greedy generation and scores of one request
"""

from sglang_speed.models.hf_config import SpeedLlamaConfig, register

register()

__all__ = ["SpeedLlamaConfig", "register"]
