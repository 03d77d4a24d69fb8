"""Attention: the backend that SGLang chose, built once per depth band, behind SGLang's single interface.

banded       plans each band's backend once per batch; the model picks the band
deep_batch   a deep band's view of a batch: which rows are deep, their lengths and slots
filling      what keeps keys and values of rows that a band does not compute
lost_anchors anchors that are computed by themselves, in front of a forward that reuses the prefix behind them

Owns no KV: slots and lengths come from `kv_pool`. Must not decide which tokens are deep, which the policy does.
"""
