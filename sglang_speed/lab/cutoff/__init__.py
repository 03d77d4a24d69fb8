"""Which cutoff suits a checkpoint: what each layer does for prompt tokens, and what each cutoff costs untrained.

request.py     a prompt with its response, as token ids: what is measured on
texts.py       where requests come from: chats of the user, or what the model itself says
model.py       the checkpoint as a reference model at full depth
fisher.py      importance of each layer for prompt tokens and for response tokens (POP)
evidence.py    kinds of request, and how many of each a recommendation needs
cutoffs.py     loss, divergence and agreement of every cutoff, without training
advice.py      the recommendation and its rule
results.py     all figures as one JSON-serializable value
report.py      the table and the sentences
plots.py       the picture
command.py     `sglang-speed cutoff`

Runs in one process with transformers; never imports sglang.
"""
