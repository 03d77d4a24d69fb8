"""The quality of SPEED against the same model at full depth: `sglang-speed eval`.

tasks/         seeded items and their grading, one task per file
prompts.py     chats for the full-depth model to answer
references.py  its responses, with their log-probabilities
measure.py     runs a task, or scores the references, on one server: a value for each item
subjects.py    the evaluated models: a checkpoint with a tail, or a running server
results.py     the results file, from which an interrupted run continues
run.py         full depth first, then every model
options.py, command.py, report.py, plots.py   the user interface
harness.py     lm-eval against a SPEED server
"""

NUM_SAMPLES = 96
"""Items of each task: about four minutes for the default model on two cores."""
DEFAULT_TASKS = ("responses", "needle", "tools", "instructions", "recall")
TASK_NAMES = (*DEFAULT_TASKS, "long")
"""Repeated here, so that `--help` need not import the tasks. The others are asked for by name: a CPU takes minutes for
a long text, and not every model has the context."""
