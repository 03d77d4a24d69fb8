"""Model files: the order in which a model's layers run, band by band. SGLang's model registry scans this package.

hf_config    the transformers configuration of a SPEED checkpoint; imports neither SGLang nor modeling code
speed_llama  Llama

Must not decide which rows are deep, nor where their KV lies: `attention` hands both over, planned.
"""
