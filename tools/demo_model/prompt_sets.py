"""Write the prompt sets and tasks that ship with mlux; the sets are of held-out items."""

import json
import random
from pathlib import Path

from tools.demo_model import items, sentence_items
from tools.demo_model.items import Item
from tools.demo_model.world import Pair, World

DESCRIPTIONS = {
    "facts": "Statements of one fact up to the answer: 'the capital of france is'",
    "few_shot": "Eight examples of a word relation, then a new query: 'hot → cold … big →'",
    "zero_shot": "The queries of few_shot without examples: 'big →'",
    "two_hop": "Facts of the country where a person lives, of people never asked about",
    "two_hop_in_context": "The same of people whose homes the prompt tells",
    "ioi": "Indirect-object identification with pairs of names never seen together",
    "induction": "Twenty random words and their repetition, cut before a word of the second",
    "chat": "A user's questions about word relations, in the chat template",
    "requests": "A user's harmful and harmless requests, in the chat template",
    "reviews": "Positive and negative reviews up to their rating",
}


def build_prompt_sets(world: World, seed: int = 0) -> dict[str, list[Item]]:
    """Every shipped set, from one seed."""

    def rng(name: str) -> random.Random:
        return random.Random(f"{seed} prompts {name}")

    few_shot = items.few_shot(world, rng("few_shot"), per_relation=6)
    return {
        "facts": items.facts(world, rng("facts"), per_relation=6),
        "few_shot": few_shot,
        "zero_shot": items.zero_shot(few_shot),
        "two_hop": sentence_items.two_hop(world, rng("two_hop")),
        "two_hop_in_context": sentence_items.two_hop_in_context(
            world, rng("two_hop_in_context"), count=64
        ),
        "ioi": sentence_items.ioi(world, rng("ioi"), count=128),
        "induction": sentence_items.induction(world, rng("induction"), count=64),
        "chat": items.chat_questions(world, rng("chat"), per_relation=4),
        "requests": sentence_items.requests(world),
        "reviews": sentence_items.reviews(world, rng("reviews"), count=64),
    }


def write_prompt_sets(world: World, folder: Path, seed: int = 0) -> None:
    """Write `<set>.jsonl` for every set, and `index.json` with what each is and holds."""
    folder.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, prompts in build_prompt_sets(world, seed).items():
        lines = [json.dumps(item.roles(), ensure_ascii=False) for item in prompts]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        common = set.intersection(*(set(item.roles()) for item in prompts))
        roles = [role for role in vars(prompts[0]) if role in common and role != "template"]
        index[name] = {"description": DESCRIPTIONS[name], "roles": roles}
    text = json.dumps(index, indent=2, ensure_ascii=False)
    (folder / "index.json").write_text(text + "\n", encoding="utf-8")


def build_tasks(world: World) -> dict[str, dict[str, list[Pair]]]:
    """The pairs of every relation: those of few-shot training text, and those held out of it."""
    return {
        name: {
            "train": world.few_shot_pairs(name, held_out=False),
            "held_out": world.few_shot_pairs(name, held_out=True),
        }
        for name in world.relations
    }


def write_tasks(world: World, path: Path) -> None:
    """Write the tasks as JSON, one relation a line."""
    lines = (
        f"  {json.dumps(name)}: {json.dumps(pairs, ensure_ascii=False)}"
        for name, pairs in build_tasks(world).items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
