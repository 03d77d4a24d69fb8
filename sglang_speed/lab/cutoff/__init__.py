"""The choice of a cutoff: how much each layer matters for prompt tokens, and what each cutoff costs without training.

request.py     a prompt with its response, as token ids
texts.py       the requests: from the user's chats, or answered by the model
model.py       the checkpoint as a reference model at full depth
fisher.py      importance of each layer for prompt tokens and for response tokens (POP)
evidence.py    kinds of request, and how many of each a recommendation needs
cutoffs.py     loss, divergence and agreement of every cutoff, without training
advice.py      the recommendation and its rules
results.py     all figures as one JSON-serializable value
report.py      tables and sentences
plots.py       the plot
options.py, command.py   `sglang-speed cutoff`

Runs in one process with transformers; never imports sglang.
"""
