"""Draws the README's figure from `mlux.db.example`: docs/images/first_look.png.

python -m tools.readme_figure
"""

from pathlib import Path

import altair as alt
import pandas as pd

from mlux import compare
from mlux.store import Store, list_runs, query

ROOT = Path(__file__).parent.parent
DATABASE = str(ROOT / "mlux.db.example")
TARGET = ROOT / "docs" / "images" / "first_look.png"

BY_POSITION = """
SELECT layer, position, value FROM results
WHERE run = '{run}' AND metric = 'patching_effect' AND condition = 'site=resid_pre' AND trial = 0
"""
TOKENS = """
SELECT t.position, k.text FROM trial_tokens AS t
JOIN tokens AS k ON k.id = t.token JOIN runs AS r ON r.id = t.run_id
WHERE r.uid = '{run}' AND t.trial = 0 AND t.role = 'clean'
"""


def frame(sql: str) -> pd.DataFrame:
    """The answer to a question in SQL."""
    with Store.open(DATABASE) as store:
        columns, rows = query(store, sql)
    return pd.DataFrame(rows, columns=columns)


def lens_chart(runs: list[str]) -> alt.Chart:
    """How probable the answer is after each block, on both models."""
    results = compare.layer_results(runs, metric="answer_probability", db=DATABASE)
    means = results.groupby(["model", "layer"], observed=True)["value"].mean().reset_index()
    means["model"] = means["model"].astype(str)
    means["dash"] = means["model"]
    return (
        alt.Chart(means, title="Logit lens: when the answer is known")
        .mark_line(point=True)
        .encode(
            alt.X("layer:O", title="after block", axis=alt.Axis(labelAngle=0)),
            alt.Y("value:Q", title="mean probability of the answer"),
            alt.Color("model:N", scale=alt.Scale(range=["#0072b2", "#e69f00"]), title=None,
                      legend=alt.Legend(orient="top-left")),
            # by a field of its own: else the legend's dots are dashed too
            alt.StrokeDash("dash:N", legend=None),
        )
        .properties(width=210, height=220)
    )  # fmt: skip


def heads_chart(run: str) -> alt.Chart:
    """Which heads look back to what followed the current token."""
    results = compare.layer_results([run], metric="prefix_matching_score", db=DATABASE)
    means = results.groupby(["layer", "head"], observed=True)["value"].mean().reset_index()
    return (
        alt.Chart(means, title="Induction heads: prefix matching")
        .mark_rect()
        .encode(
            alt.X("head:O", axis=alt.Axis(labelAngle=0)),
            alt.Y("layer:O"),
            alt.Color("value:Q", scale=alt.Scale(scheme="viridis"), title=None),
        )
        .properties(width=150, height=220)
    )


def patching_chart(run: str) -> alt.Chart:
    """At which layer and token the answer of one prompt is decided."""
    effects = frame(BY_POSITION.format(run=run)).merge(frame(TOKENS.format(run=run)))
    effects["token"] = effects["position"].map("{:02}".format) + " " + effects["text"].str.strip()
    return (
        alt.Chart(effects, title="Patching the residual stream: where the answer is decided")
        .mark_rect()
        .encode(
            alt.X("token:O", title=None,
                  axis=alt.Axis(labelAngle=-60, labelExpr="slice(datum.value, 3)")),
            alt.Y("layer:O", title="before block"),
            alt.Color("value:Q", title="effect",
                      scale=alt.Scale(scheme="blueorange", domain=[-1, 1], clamp=True)),
        )
        .properties(width=330, height=220)
    )  # fmt: skip


def main() -> None:
    """Draws the three panels side by side."""
    with Store.open(DATABASE) as store:
        runs = {(run["experiment"], run["model"]): run["run"] for run in list_runs(store)}
    lens = lens_chart([runs["logit_lens", "demo"], runs["logit_lens", "demo-4bit"]])
    heads = heads_chart(runs["induction_heads", "demo"])
    patching = patching_chart(runs["activation_patching", "demo"])
    figure = (lens | heads | patching).resolve_scale(color="independent", strokeDash="independent")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    figure.save(TARGET, scale_factor=2)
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    main()
