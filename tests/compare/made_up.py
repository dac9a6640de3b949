"""Two runs on models of different depth, with doses and controls, as plain numbers."""

from dataclasses import dataclass, field
from statistics import mean

from synthetic import make_environment, make_model, make_prompts, make_spec, token_text

from mlux.results import Metric, Values
from mlux.store import FinishedTrial, RunWriter, Store, create_run

N_PROMPTS, N_HEADS = 5, 2
METRICS = (
    Metric(name="effect", unit="logits", description="An effect", better="higher"),
    Metric(name="rank", unit="rank", description="A rank", better="lower"),
    Metric(name="by_position", unit="", description="An effect by position"),
)
CONDITIONS = (
    *({"alpha": alpha} for alpha in ("0.5", "10", "2")),
    *({"alpha": "2", "control": f"random {i}"} for i in range(3)),
)
Place = tuple[str, int, dict[str, str], int, int]
"""Run, prompt, condition, layer, head."""


def effect(run: int, prompt: int, condition: dict[str, str], layer: int, head: int) -> float:
    """What the made-up experiment finds: the same on every machine, of no simple order."""
    wave = ((37 * prompt + 101 * layer + 61 * head + 13 * run) % 29) / 29
    dose = float(condition["alpha"])
    if "control" in condition:
        return wave / 10 + float(condition["control"][-1]) / 100
    return wave + dose * (layer + 1) / (run + 1)


@dataclass
class Recorded:
    """A notebook and what was put into it."""

    store: Store
    location: str
    runs: list[str] = field(default_factory=list)
    depths: tuple[int, ...] = (3, 5)
    numbers: list[tuple[Place, float]] = field(default_factory=list)

    def prompt_means(self, run: str, **wanted: object) -> list[float]:
        """The mean of each prompt over what fits: layer, head, alpha, control."""
        found: dict[int, list[float]] = {}
        for (uid, prompt, condition, layer, head), value in self.numbers:
            has = {"layer": layer, "head": head, "control": None, **condition}
            if uid == run and all(has[name] == want for name, want in wanted.items()):
                found.setdefault(prompt, []).append(value)
        return [mean(values) for values in found.values()]


def record(recorded: Recorded, number: int, depth: int) -> None:
    """Adds a run on a model of so many layers."""
    model = make_model(f"toy{depth}", n_layers=depth, weights_hash=f"{depth}" * 64)
    spec = make_spec(
        prompts=make_prompts(N_PROMPTS),
        conditions=CONDITIONS,
        metrics=METRICS,
        model=model,
        seed=number,
        params={"top_k": 2 + number, "layers": [0, 2], "same": True},
        tags={"paper": "draft"} if number else {},
    )
    uid = create_run(recorded.store, spec)
    recorded.runs.append(uid)
    writer = RunWriter(recorded.store, uid, token_text)
    writer.start(make_environment())
    finished = []
    for trial, planned in enumerate(spec.trials):
        condition = dict(planned.condition)
        grid = [
            [effect(number, planned.prompt, condition, layer, head) for head in range(N_HEADS)]
            for layer in range(depth)
        ]
        for layer, row in enumerate(grid):
            for head, value in enumerate(row):
                place = (uid, planned.prompt, condition, layer, head)
                recorded.numbers.append((place, value))
        results = [
            Values(metric="effect", values=grid, axes=("layer", "head")),
            Values(metric="rank", values=[float(10 - i) for i in range(depth)], axes=("layer",)),
            Values(
                metric="by_position",
                values=[[float(planned.prompt + position) for position in range(3)]],
                axes=("layer", "position"),
            ),
        ]
        # Position 2 holds another token in each prompt.
        tokens = {"clean": [7, 8, planned.prompt]}
        finished.append(FinishedTrial(trial=trial, results=results, tokens=tokens))
    writer.write(finished)
    writer.finish("done", seconds=0.5)
