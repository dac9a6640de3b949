"""A notebook full of text that means harm, or merely breaks things."""

from dataclasses import replace

from synthetic import make_environment, make_model, make_spec

from mlux.prompts import Prompt, PromptSet
from mlux.provenance import TokenText
from mlux.results import Generation, Metric, TopTokens, Values
from mlux.store import FinishedTrial, RunWriter, Store, create_run
from mlux.store.claims import add_claim

MARKER = "document.documentElement.dataset.hacked = 'yes'"
SCRIPT = f"</script><script>{MARKER}</script>"
PIECES = (
    SCRIPT,
    f"<img src=x onerror=\"{MARKER}\"> <a href='javascript:{MARKER}'>x</a> <!-- ",
    '"\'`><svg onload="' + MARKER + '">{{ 7 * 7 }} {% raw %} ${7*7} \\u003c',
    "\x1b[31mred\x07 \x85 \u2028 \u202eright to left\u202c \u2066x\ufeff",
    "🧪👩‍🔬 नमस्ते שלום مرحبا ﷽ Z̶̲͠a̸l̵g̷o 全角",
    "| **bold** | ``` fence ~~~~ [link](http://example.org) # title\n- item\n\n| --- |",
    "'; DROP TABLE runs; --",
)
HALVES = " \0 \ud800"  # what no database takes as it is
HUGE = "x" * 100_000
EVERYTHING = " ".join(PIECES)


def fill(store: Store) -> list[str]:
    """Two runs on two hostile models, with a claim; their uids."""
    prompts = tuple(Prompt(text=f"{piece} {HUGE[:9000]}", answer=SCRIPT) for piece in PIECES)
    spec = make_spec(
        prompts=PromptSet(name=SCRIPT, prompts=prompts, description=EVERYTHING),
        conditions=[{"alpha": "0", SCRIPT: "x"}, {"alpha": "1", SCRIPT: PIECES[1]}],
        experiment=f"evil {SCRIPT}",
        description=EVERYTHING,
        paper=PIECES[2],
        metrics=(Metric(name=PIECES[1], unit=SCRIPT, description=SCRIPT, better="higher"),),
        params={SCRIPT: EVERYTHING},
        tags={SCRIPT: PIECES[3], "emoji": PIECES[4]},
        note=EVERYTHING,
    )
    uids = []
    for number in range(2):
        name = f"evil{number} {SCRIPT}"
        model = make_model(name, weights_hash=f"{number}1" * 32, source=PIECES[1])
        uid = create_run(store, replace(spec, model=model))
        writer = RunWriter(store, uid, _token)
        writer.start(make_environment())
        writer.write([_finished(trial, number) for trial in range(len(spec.trials))])
        writer.finish("done")
        uids.append(uid)
    add_claim(store, EVERYTHING + HALVES, runs=uids, status="refuted", note=SCRIPT)
    return uids


def _token(token: int) -> TokenText:
    text = HUGE if token == 7 else PIECES[token % len(PIECES)]
    return TokenText(text=text, piece=text, shown=f"{text}<id:{token}>")


def _finished(trial: int, shift: int) -> FinishedTrial:
    text = HUGE if trial == 0 else PIECES[trial % len(PIECES)] + HALVES
    return FinishedTrial(
        trial=trial,
        results=[
            Values(
                metric=PIECES[1],
                values=[[trial + shift, -1.0], [0.5, shift]],
                axes=("layer", "position"),
            ),
            *(
                TopTokens(token_ids=[trial % 8, 3], logprobs=[-0.1, -3], layer=layer, position=1)
                for layer in range(2)
            ),
            Generation(text=text, token_ids=[1, 2]),
        ],
        tokens={"clean": [trial % 8, (trial + 1) % 8]},
    )
