"""`sglang-speed plan`: what a policy and a cutoff would gain for a model on given GPUs, before any is rented.

options     what the user says of model, traffic and memory
estimates   arithmetic: how many tokens and requests fit, and the ceilings of TTFT and TPOT
report      the table, the JSON and the picture
command     the command

Reads config.json, and the headers of weights where they are there. Imports neither torch nor sglang.
"""
