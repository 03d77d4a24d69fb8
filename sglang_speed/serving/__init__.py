"""How a SPEED model runs inside SGLang: what its processes do differently, and nothing about how changes are made.

plugin           SGLang's entry point: installs every declared change, or none
hooks, fields    the lists of what is changed, each with its reason
arguments        what the user typed, completed before SGLang resolves it
refusals         what a SPEED model is not served with
refused_start    a refused start is one message
memory           the KV budget split between the bands, the deep band built beside SGLang's pools
agreement        ranks that share a model compare what they serve, before they serve it
admission        what the deep band lets the scheduler do
model            SGLang's stock model, run in depth bands
forward          what a batch and the attention backend know of the deep band
new_weights      weights that come in while serving
observe, metrics what the operator sees
settings         the environment, read here and nowhere else
"""
