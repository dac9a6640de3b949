"""Who acts on the induction heads, and by way of what."""

from typing import Any

from mlux import charts, compare

RUNS: tuple[dict[str, Any], ...] = ({},)


def draw(runs: list[Any], db: str) -> Any:
    """The effect of each head by way of the queries, keys and values of heads 2.0 and 2.3."""
    frame = compare.layer_results([runs[0].uid], metric="path_effect", db=db)
    wanted = ["receiver=q", "receiver=k", "receiver=v"]
    return charts.head_heatmap(
        frame[frame["condition"].astype(str).isin(wanted)],
        title="Path from a head to the induction heads",
    )
