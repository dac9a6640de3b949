"""Runs made up of plain numbers, for whatever needs a notebook without a model."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from mlux.prompts import Prompt, PromptSet
from mlux.provenance import Environment, ModelIdentity, TokenizerIdentity, TokenText, environment
from mlux.results import Generation, Metric, TopTokens, Values
from mlux.store import FinishedTrial, RunSpec, RunWriter, Store, TrialSpec, create_run

METRICS = (
    Metric(name="answer_rank", unit="rank", description="Rank of the answer", better="lower"),
    Metric(name="logit_diff", unit="logits", description="Answer minus wrong answer"),
    Metric(name="head_score", unit="", description="A score of each head", better="higher"),
    Metric(name="accuracy", unit="", description="One number a prompt", better="higher"),
)
N_LAYERS, N_HEADS = 3, 2


def make_environment() -> Environment:
    return replace(environment("Device(cpu, 0)"), git_commit="c0ffee", git_dirty=True)


def make_model(name: str = "toy", **changes: Any) -> ModelIdentity:
    model = ModelIdentity(
        name=name,
        source=f"/models/{name}",
        revision=None,
        model_type="llama",
        n_layers=N_LAYERS,
        n_heads=N_HEADS,
        n_kv_heads=1,
        d_model=8,
        d_head=4,
        vocab_size=50,
        n_parameters=3_000_000_000,
        dtype="float32",
        quant_bits=None,
        quant_group_size=None,
        quant_mode=None,
        weights_hash="ab" * 32,
        adapter_source=None,
        adapter_hash=None,
        tokenizer=TokenizerIdentity(
            name="Toy", vocab_size=50, content_hash="cd" * 32, chat_template_hash=None
        ),
    )
    return replace(model, **changes)


def make_prompts(n: int = 4, name: str = "capitals") -> PromptSet:
    prompts = [
        Prompt(
            text=f"The capital of country {i} is",
            corrupted=f"The capital of nowhere {i} is",
            answer=f"city {i}",
            label="even" if i % 2 == 0 else "odd",
            token_ids=(1, 2, i) if i % 3 == 0 else None,
        )
        for i in range(n)
    ]
    return PromptSet(name=name, prompts=tuple(prompts), description="Countries and cities")


def make_spec(
    *, n_prompts: int = 4, conditions: Iterable[Mapping[str, str]] = ({},), **changes: Any
) -> RunSpec:
    prompts = changes.pop("prompts", make_prompts(n_prompts))
    trials = tuple(
        TrialSpec(prompt=index, condition=condition)
        for condition in conditions
        for index in range(len(prompts.prompts))
    )
    spec = RunSpec(
        experiment="toy_lens",
        description="Numbers of every layer",
        paper="Nobody (2025)",
        code_hash="ef" * 32,
        metrics=METRICS,
        model=make_model(),
        prompts=prompts,
        trials=trials,
        params={
            "top_k": 2,
            "layers": [0, 2],
            "alpha": 0.5,
            "site": "resid",
            "raw": None,
            "on": True,
        },
        seed=0,
        batch_size=None,
        tags={"paper": "toy"},
        note="made up",
        environment=make_environment(),
    )
    return replace(spec, **changes)


def number(trial: int, layer: int, head: int = 0, shift: float = 0.0) -> float:
    """What a made-up experiment measures: the same on every machine."""
    return math.sin(1.7 * trial + 0.3 * layer + 0.11 * head) + shift


def make_finished(trial: int, *, shift: float = 0.0) -> FinishedTrial:
    layers = range(N_LAYERS)
    results = [
        Values(
            metric="answer_rank", values=[float(max(0, 2 - i)) for i in layers], axes=("layer",)
        ),
        Values(
            metric="logit_diff",
            values=[number(trial, layer, shift=shift) for layer in layers],
            axes=("layer",),
        ),
        Values(
            metric="head_score",
            values=[[number(trial, i, h, shift) for h in range(N_HEADS)] for i in layers],
            axes=("layer", "head"),
        ),
        Values(metric="accuracy", values=float(trial % 2)),
        *[
            TopTokens(
                token_ids=[(trial + i) % 50, (trial + i + 1) % 50],
                logprobs=[-0.5, -1.5],
                layer=i,
                position=4,
            )
            for i in layers
        ],
        Generation(text=f"city {trial} \ud800", token_ids=[5, 6, trial % 50]),
    ]
    tokens = {"clean": [1, 2, trial % 50], "corrupted": [1, 3, trial % 50]}
    return FinishedTrial(trial=trial, results=results, tokens=tokens)


def token_text(token: int) -> TokenText:
    return TokenText(text=f" w{token}", piece=f"Ġw{token}", shown=f"␣w{token}")


def write_run(
    store: Store,
    spec: RunSpec | None = None,
    *,
    make: Callable[[int], FinishedTrial] = make_finished,
    batch: int = 3,
) -> str:
    """Files and finishes a whole run; its uid."""
    spec = spec or make_spec()
    uid = create_run(store, spec)
    work(store, uid, range(len(spec.trials)), make=make, batch=batch)
    return uid


def work(
    store: Store,
    uid: str,
    trials: Iterable[int],
    *,
    make: Callable[[int], FinishedTrial] = make_finished,
    batch: int = 3,
) -> None:
    """Starts, writes these trials in batches, and finishes."""
    writer = RunWriter(store, uid, token_text)
    writer.start(make_environment())
    left = list(trials)
    for start in range(0, len(left), batch):
        writer.write([make(trial) for trial in left[start : start + batch]])
    writer.finish("done", peak_memory_bytes=1000, hook_fires=7, seconds=0.5)
