"""The recipe of the default model.

prompts       generates prompts
pack          packs the LoRA factors as one small file
built_in      selects the built-in prompts of `sglang-speed cutoff`
"""
