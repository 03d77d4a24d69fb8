"""The method, in plain Python: no server, no tensors, no device.

Glossary. The whole package uses these words in these senses.

depth band      a range of decoder layers; SPEED has two
shallow band    layers `0 .. Lc-1`; every token passes them
deep band       layers `Lc .. L-1`; only deep tokens pass them
prefill layers  `Lc`, the number of layers in the shallow band
deep token      a token that is computed, cached and visible in the deep band
anchor          one of the first `k` prompt positions; a deep token in every request
tail            the last `m` prompt positions; deep tokens, they begin the decode phase
deep start      the first position of the decode phase; every later position is deep
scored span     prompt positions whose log-probabilities were asked for; it lowers the deep start
gap             prompt positions between the anchors and the deep start, where they are absent from the deep band
filled KV       keys and values that the deep band has of tokens that it does not compute, from the state at the cutoff
slot            one token's place in a KV pool
row             one request's line in a request table; also one token's line in a batch of hidden states
"""

from sglang_speed.method.bands import DepthBand, depth_bands
from sglang_speed.method.cost import ModelShape
from sglang_speed.method.deep_tokens import DeepTokens

__all__ = ["DeepTokens", "DepthBand", "ModelShape", "depth_bands"]
