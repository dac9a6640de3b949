"""The self-test of a model: what mlux can read and edit in it, proved on the model itself.

Each row is a site or a property with a verdict: `exact` up to the rounding of the model's dtype,
`approximate` with the measured error, `absent` with the reason, or `failed`. An error is the
largest difference, relative to the largest value of what was expected.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["exact", "approximate", "absent", "failed"]

PROPERTIES = {
    "hooks": "reading every site changes no logit, bit for bit",
    "sum": "resid_pre + attn_out + mlp_out = resid_post",
    "attention": "pattern rows sum to 1 (less with sinks), and pattern · v = z",
    "heads": "the heads through the output projection sum to its output",
    "self_patch": "writing every site back changes nothing",
    "lens": "the head on the last residual stream gives the logits",
    "resume": "running from a block's input on gives the logits",
    "batch": "a row of a right-padded batch is what it is alone",
    "cache": "token by token with a cache is as without",
    "clean": "a hook that fails leaves the model as it was",
    "rotary": "rotary embeddings turn as the types in config.json are defined",
    "config": "every setting of config.json that bears on the mathematics is read",
}
"""What is checked besides reading and editing each kind of site, and what it says."""

COMPARED = {
    "rotary": "the definitions of transformers, for what config.json says",
    "config": "the source of the built modules",
}
"""What a line compares the model with; every other one compares it with itself."""

BASIS = (
    "rotary compares with the definitions of transformers, config with config.json;\n"
    "the other lines compare mlx-lm's model with itself, not with transformers."
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a certificate.

    Attributes:
        site: A kind of site, or one of `PROPERTIES`.
        error: The measured relative error; None where nothing was measured.
        reason: Why it is absent or failed, or in which blocks; empty for all is well.
    """

    site: str
    verdict: Verdict
    error: float | None = None
    reason: str = ""

    @property
    def compared(self) -> str:
        """What the model was compared with."""
        return COMPARED.get(self.site, "mlx-lm's model itself")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a model's self-test found.

    Attributes:
        model_type: The architecture.
        dtype: What it computes in.
        rows: The sites, then the properties.
        forward_passes: Forward passes that it took, shorter ones counted as whole ones.
        adapter: What became of an adapter of PEFT; empty without one.
    """

    model_type: str
    dtype: str
    rows: tuple[Row, ...]
    forward_passes: int
    adapter: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing failed; what is absent is said, and is no failure."""
        return not self.failed(())

    def row(self, site: str) -> Row:
        """The row of a site or property."""
        return next(row for row in self.rows if row.site == site)

    def failed(self, sites: Sequence[str]) -> list[Row]:
        """The failed rows among these sites; among all for none."""
        return [
            row for row in self.rows if row.verdict == "failed" and row.site in (sites or row.site)
        ]

    def __repr__(self) -> str:
        """One line a row."""
        lines = [f"Certificate of {self.model_type} in {self.dtype}"]
        lines += [f"  {self.adapter}"] if self.adapter else []
        for row in self.rows:
            error = "" if row.error is None else f"{row.error:.1e}"
            lines.append(f"  {row.site:<11} {row.verdict:<12} {error:<8} {row.reason}".rstrip())
        return "\n".join([*lines, BASIS])


def judged(site: str, error: float, rounding: float, reason: str = "") -> Row:
    """The row of a measured error.

    Args:
        site: A site or property.
        error: The relative error.
        rounding: What the dtype's rounding explains.
        reason: What to say besides.
    """
    verdict: Verdict = "failed"
    if error <= 4 * rounding:  # false for a NaN, too
        verdict = "exact" if error <= rounding else "approximate"
    return Row(site=site, verdict=verdict, error=error, reason=reason)
