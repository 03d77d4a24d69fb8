"""Models: which decoders have depth bands, and how SGLang's run band by band.

architectures  the table: one row for each
hf_config      the transformers configuration of a SPEED checkpoint; imports neither SGLang nor modeling code
banded         SGLang's stock decoder, run in bands
hf_banded      the same for decoders that SGLang takes from transformers

Must not decide which rows are deep, nor where their KV lies: `attention` hands both over, planned.
"""
