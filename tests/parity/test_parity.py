"""mlux, mlx-lm and transformers see the same numbers in the same weights.

The reference is transformers with eager attention in float32. Where mlx-lm computes something else
by its own choice, the row says what: there mlux must be as close as the bare mlx-lm model is, and
another row of the family takes the cause away and must hold the bound itself.
"""

import pytest
from families import FAMILIES
from readings import Readings, difference, read

BOUND = 2e-4
KINDS = ("logits", "resid", "pattern", "z")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def names_of(readings: Readings, kind: str) -> list[str]:
    names = [name for name in readings.transformers if name.partition(".")[0] == kind]
    assert names
    return names


def test_mlux_agrees_with_transformers(family: str, table: dict[str, str]) -> None:
    readings = read(family)
    differs = FAMILIES[family].differs
    found = {
        name: difference(readings.mlux, readings.transformers, name)
        for name in readings.transformers
    }
    largest = [max(found[name] for name in names_of(readings, kind)) for kind in KINDS]
    table[family] = f"{family:33}" + "".join(f"{value:9.1e}" for value in largest) + f"  {differs}"
    for name, value in found.items():
        allowed = BOUND
        if differs:
            # A pattern that is worked out by hand rounds in other places.
            own = difference(readings.mlx_lm, readings.transformers, name)
            allowed = max(BOUND, own * 1.001)
        assert value <= allowed, name


@pytest.mark.parametrize("family", [name for name, row in FAMILIES.items() if not row.mended])
def test_mlux_reads_what_mlx_lm_computes(family: str) -> None:
    """Whatever difference is left is mlx-lm's: bit for bit, patterns to rounding."""
    readings = read(family)
    assert readings.mlux.keys() == readings.mlx_lm.keys() == readings.transformers.keys()
    for kind in KINDS:
        for name in names_of(readings, kind):
            own_rotary = FAMILIES[family].config.get("rope_parameters", {}).get("rope_type")
            scaled = own_rotary not in (None, "default")  # mlux puts in a module of its own
            rounding = 1e-5 if kind == "pattern" or scaled else 0.0
            assert difference(readings.mlux, readings.mlx_lm, name) <= rounding, name


@pytest.mark.parametrize(
    "family", [name for name, row in FAMILIES.items() if row.differs or row.mended]
)
def test_a_difference_that_is_excused_is_there(family: str) -> None:
    """When mlx-lm comes closer, the row loses its excuse."""
    readings = read(family)
    own = [difference(readings.mlx_lm, readings.transformers, name) for name in readings.mlx_lm]
    assert max(own) > BOUND
