"""What SPEED costs in quality, against the same model at full depth: `sglang-speed eval`.

tasks/         items from a seed, and a grade for the answers to each: one task per file
prompts.py     the chats that the full-depth model answers, so that its answers can be scored
references.py  these answers, and what the full-depth model says of them
measure.py     a task or the references, asked of one server: a value for each item
subjects.py    what is evaluated: a checkpoint at a tail, or a running server
results.py     the results file, which a run that was cut short goes on with
run.py         full depth first, then every model
command.py, report.py, plots.py   what the user sees
harness.py     lm-eval against a SPEED server
"""

NUM_SAMPLES = 96
"""Items of each task: about four minutes a model for the default model on two cores."""
TASK_NAMES = ("responses", "needle", "tools", "instructions", "recall")
"""Known here too, so that `--help` need not import what they name."""
