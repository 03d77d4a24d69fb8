"""The recipe of the default model: its prompts, as data and as what draws them, and the script that packs the adapter.

prompts       draws prompts          pack          LoRA's factors as one small file
built_in      chooses the prompts that `sglang-speed cutoff` has built in
"""
