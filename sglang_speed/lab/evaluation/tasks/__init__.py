"""The tasks, one per file; `base.py` has the contract.

words.py, catalogue.py, rules.py   material of the items: words and prose, tools, rules

A new task is a file with a subclass of Task, and an entry here.
"""

from sglang_speed.lab.evaluation.tasks.base import Item, Task
from sglang_speed.lab.evaluation.tasks.instructions import Instructions
from sglang_speed.lab.evaluation.tasks.long import Long
from sglang_speed.lab.evaluation.tasks.needle import LENGTHS, Needle
from sglang_speed.lab.evaluation.tasks.recall import Recall
from sglang_speed.lab.evaluation.tasks.tools import Tools

TASKS: dict[str, type[Task]] = {task.name: task for task in (Needle, Tools, Instructions, Recall, Long)}

__all__ = ["LENGTHS", "TASKS", "Item", "Task"]
