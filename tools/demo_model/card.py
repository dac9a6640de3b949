"""Write the model card around the measured figures."""

import textwrap
from dataclasses import dataclass
from pathlib import Path

from tools.demo_model.corpus import MIXTURE, ROW
from tools.demo_model.evaluate import Figure
from tools.demo_model.heads import Head
from tools.demo_model.network import Shape
from tools.demo_model.train import TrainingConfig
from tools.demo_model.world import World

COMMAND = "python -m tools.demo_model"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one training was and took."""

    config: TrainingConfig
    world_seed: int
    minutes: float
    hardware: str
    silenced: list[Head]


def write_card(
    path: Path, world: World, shape: Shape, training: Training, figures: list[Figure]
) -> None:
    """Write the card; every figure in its table is one that was just measured."""
    sections = [
        _HEAD.format(
            layers=shape.n_layers,
            d_model=shape.d_model,
            heads=shape.n_heads,
            kv_heads=shape.n_kv_heads,
            d_head=shape.d_head,
            d_mlp=shape.d_mlp,
            vocabulary=shape.d_vocab,
            context=shape.context,
            row=ROW,
        ),
        "## Accuracy on held-out items\n\n" + figure_table(figures),
        _HOW_MEASURED,
        "## World\n\n" + _world_text(world),
        "## Training\n\n" + _training_text(training),
        _LIMITS.format(row=ROW),
    ]
    path.write_text("\n\n".join(section.strip() for section in sections) + "\n", encoding="utf-8")


def figure_table(figures: list[Figure]) -> str:
    """The figures as Markdown: task, value, what it has to reach."""
    lines = ["| task | measured | required |", "|---|---|---|"]
    for figure in figures:
        required = ""
        if figure.at_least is not None:
            required = f"≥ {figure.at_least:g}"
        if figure.at_most is not None:
            required = f"≤ {figure.at_most:g}"
        lines.append(f"| {figure.task} | {figure.value:.3f} | {required} |")
    return "\n".join(lines)


def read_figures(card: str) -> dict[str, float]:
    """The table of a card again: task → measured value."""
    rows = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {row[0]: float(row[1]) for row in rows if row[1][:1] in "-0123456789"}


def _world_text(world: World) -> str:
    counts = ", ".join(f"{name} {len(r.pairs)}" for name, r in world.relations.items())
    away = world.held_out
    lost = sum(map(len, away.few_shot.values()))
    pairs = sum(len(r.pairs) for r in world.relations.values())
    return f"""
Lower-case English and Zorbic, an invented language, in {len(world.relations)} relations of word
pairs; {len(world.homes)} invented people who live in {len(world.raw["countries"])} countries;
names, places and objects for indirect-object sentences; reviews in two moods; harmless and
harmful requests. Several relations share their query words (hot → cold, hotter, hottest), so
that only the examples of a prompt can tell the task.

{textwrap.fill(f"Pairs of each relation: {counts}.", 100)}

Held out, so that the items above are new to the model:

- {lost} of {pairs} pairs (18 % of each relation; an antonym together with its reverse) never occur
  in few-shot form. They do occur as facts and in chat, so the model knows them.
- {len(away.people)} of {len(world.homes)} people never occur in two-hop text; where they live does.
- {len(away.ioi_pairs)} of 400 pairs of names never occur in indirect-object sentences.
- {len(away.in_context)} pairs of name and country are never asked about in context,
  {len(away.opinions)} pairs of topic and adjective never reviewed,
  {len(away.requests)} requests never made.
- Facts and chat questions are about the pairs of the first line: what is tested there is
  memory, not generalisation.
""".strip()


def _training_text(training: Training) -> str:
    config = training.config
    names = ", ".join(f"{layer}.{head}" for layer, head in training.silenced)
    pruned = textwrap.fill(
        f"Pruned after training: head {names}. It was a further induction head beside the best "
        "two, each of which did the work alone; its queries and what reads its z are zero, so it "
        "does nothing and attends evenly."
        if names
        else "No head was pruned after training.",
        100,
    )
    steps = config.schedule.steps
    tokens = steps * config.rows * ROW / 1e6
    shares = ", ".join(
        f"{writer.__name__.replace('_', ' ')} {share:g}" for writer, share in MIXTURE
    )
    return f"""
From scratch, only on text that the project's own generator writes, by one command in a checkout:

```
{COMMAND}
```

It generates, trains, prunes, exports, evaluates, and writes this card and the prompt sets.
Training took {training.minutes:.0f} minutes on {training.hardware}. Seed {config.seed}, world
seed {training.world_seed}: seeded throughout, so that one machine with one number of BLAS threads
repeats it.

{steps:,} steps of {config.rows} rows of {ROW} tokens ({tokens:.1f} million), documents packed with
attention and positions kept within each; float32; Muon on the weight matrices, AdamW on embeddings
and norms, peak rate {config.schedule.peak:g}. Learning rates of the early MLPs are a fraction of
the others', which keeps the early layers from memorising word pairs.

{pruned}

{textwrap.fill(f"Relative shares of the documents: {shares}.", 100)}
""".strip()


_HEAD = """
# The built-in model

A word-level Llama small enough to ship with mlux, on which the classic interpretability
experiments have known answers. `--model demo` loads it without any download.

- {layers} layers, d_model {d_model}, gated MLP of {d_mlp}
- {heads} query heads of {d_head} that share {kv_heads} key-value heads
- RMSNorm, rotary embedding, tied embeddings, {vocabulary} words, float16
- a context of {context} tokens; training text was never longer than {row}
"""

_HOW_MEASURED = """
Measured on the exported float16 folder, loaded by `mlx_lm.load` and computed in float32. A
prediction is right if the answer ranks first of all words. Relations count equally. Ablating a
head sets its `z` to zero. The previous-token and induction scores are mean attention weights on
repeated random words. Function vector: mean residual after block 3 at the arrow of few-shot prompts
minus that of zero-shot ones, added to held-out zero-shot queries at the arrow.
"""

_LIMITS = """
## Limits

- It knows nothing but its little world and speaks no English beyond the generator's templates.
  Its facts are partly invented: use it to test methods, not to ask questions.
- Documents had at most {row} tokens. Longer prompts run, up to the context, but are out of
  distribution.
- Two-hop prompts do not show their bridge: by the lens the country never ranks first at the last
  token (the table has its best median rank).
- Shuffling the labels of few-shot examples corrupts little, since the model recognises the task
  from the words. Prompts of mixed relations do corrupt, and the shipped `few_shot` set uses them.
- Steering vectors from the first blocks do little; the task is recognised in the middle ones.
- Refusal is a rule about eight verbs, sentiment one about two lists of words.
"""
