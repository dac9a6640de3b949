"""Prompts with roles: shipped sets, files of a user's own, and generators for any model.

A prompt names its parts by role (clean text, corrupted text, answer, wrong answer, subject,
label), so that one set serves every experiment. An answer is a continuation: it is joined to the
text by one space unless one of the two brings white space of its own.
"""

from mlux.prompts.few_shot import Corruption, in_context, mix_examples, shuffle_labels
from mlux.prompts.files import SUFFIXES, check, load, save, shipped
from mlux.prompts.ioi import IoiCorruption, ioi
from mlux.prompts.repetition import induction, repeated_tokens
from mlux.prompts.tasks import Pair, Task, demo_tasks, load_tasks
from mlux.prompts.values import TEMPLATES, Prompt, PromptSet

__all__ = [
    "SUFFIXES",
    "TEMPLATES",
    "Corruption",
    "IoiCorruption",
    "Pair",
    "Prompt",
    "PromptSet",
    "Task",
    "check",
    "demo_tasks",
    "in_context",
    "induction",
    "ioi",
    "load",
    "load_tasks",
    "mix_examples",
    "repeated_tokens",
    "save",
    "shipped",
    "shuffle_labels",
]
