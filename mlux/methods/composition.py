"""Vectors of tasks put together from those of others, with signs.

Todd et al. (2024), section 3.3: where inputs A and B and outputs C and D make four tasks, their
function vectors are the corners of a parallelogram if

    v_BD* = v_AD + v_BC − v_AC

does the task BD. Any other signed sum is worked out in the same way.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlux.errors import UnknownNameError

Terms = tuple[tuple[int, str], ...]
"""Signs, 1 or −1, and tasks."""


@dataclass(frozen=True, kw_only=True)
class Composition:
    """A task, and the signed sum of other tasks that is tried on it.

    Attributes:
        task: The task.
        text: What is added and subtracted, as in `a+b-c`.
    """

    task: str
    text: str

    @classmethod
    def of(cls, entry: str) -> "Composition":
        """Reads `task=a+b-c`.

        Example:
            >>> Composition.of("city_people=demonym+city_continent-continent").task
            'city_people'

        Raises:
            ValueError: If it is not written so.
        """
        task, _, text = entry.replace(" ", "").partition("=")
        if not task or not re.fullmatch(r"[^+-]+([+-][^+-]+)*", text):
            raise ValueError(f"compose has {entry!r}; write it as in task=a+b or task=a+b-c")
        return cls(task=task, text=text)

    def terms(self, tasks: Collection[str]) -> Terms:
        """The signs and tasks of the sum. Of names that fit, the longest: a hyphen may be in one.

        Args:
            tasks: The tasks that there are.

        Example:
            >>> sum_ = Composition.of("c=en-fr+capital-en")
            >>> sum_.terms(["en-fr", "en", "capital", "c"])
            ((1, 'en-fr'), (1, 'capital'), (-1, 'en'))

        Raises:
            UnknownNameError: If there is no such task.
        """
        if self.task not in tasks:
            raise UnknownNameError("task", self.task, tasks)
        names = sorted(set(tasks), key=len, reverse=True)
        known = re.compile(rf"({'|'.join(map(re.escape, names))})(?=[+-]|$)")
        terms, rest = [], f"+{self.text}"
        while rest:
            found = known.match(rest, 1)
            if found is None:
                raise UnknownNameError("task", re.split("[+-]", rest[1:])[0], tasks)
            terms.append((1 if rest[0] == "+" else -1, found[0]))
            rest = rest[found.end() :]
        return tuple(terms)


def composed(
    vectors: Mapping[tuple[str, int], mx.array], terms: Mapping[str, Terms], halves: Iterable[int]
) -> dict[tuple[str, int], mx.array]:
    """(task, half) → the signed sum of the vectors of other tasks, each of the same half.

    Args:
        vectors: (task, half) → its vector [d_model].
        terms: Task → the sum that is tried on it.
        halves: Which halves of the prompts there are.

    Example:
        >>> vectors = {("a", 0): mx.array([3.0, 1.0]), ("b", 0): mx.array([1.0, 1.0])}
        >>> composed(vectors, {"c": ((1, "a"), (-1, "b"))}, [0])["c", 0].tolist()
        [2.0, 0.0]
    """
    made = {}
    for half in halves:
        for task, parts in terms.items():
            signed = mx.stack([sign * vectors[part, half] for sign, part in parts])
            made[task, half] = mx.sum(signed, axis=0)
    return made
