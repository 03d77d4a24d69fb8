"""Models: which decoders have depth bands, and how SGLang's run band by band.

architectures  the table: one row for each
hf_config      the transformers configuration of a SPEED checkpoint; imports neither SGLang nor modeling code
banded         SGLang's stock decoder, run in bands
hf_banded      the same for decoders that SGLang takes from transformers
views          copies of a decoder with other layers, of which both are made
filling        the view that fills in keys and values of a deep band

Must not decide which rows are deep, nor where their KV lies: `attention` hands both over, planned.
"""
