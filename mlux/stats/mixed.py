"""A difference by a mixed-effects model: prompts are a sample, seeds are replicates within them."""

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlux.errors import ParameterError
from mlux.stats.arrays import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class MixedEstimate:
    """The difference between two treatments, with prompts as random effects.

    Attributes:
        estimate: b minus a, in the metric's unit.
        low: Lower end of its interval.
        high: Upper end of its interval.
        level: The interval's confidence level.
        p: Of the two-sided Wald test of "no difference".
        n: How many prompts.
        n_values: How many numbers.
        sd_prompt: How much prompts differ under a, as a standard deviation.
        sd_slope: How much prompts differ in the difference; NaN where no prompt has replicates.
        sd_residual: What is left.
        converged: Whether the fit did; believe nothing of one that did not.
        method: What was fitted; nothing is drawn at random, so there is no seed.
    """

    estimate: float
    low: float
    high: float
    level: float
    p: float
    n: int
    n_values: int
    sd_prompt: float
    sd_slope: float
    sd_residual: float
    converged: bool
    method: str


def mixed_model(
    values: Floats, is_b: Floats, prompts: Sequence[Hashable], *, level: float = 0.95
) -> MixedEstimate:
    """Fits value = intercept + difference · is_b, both of them varying from prompt to prompt.

    The difference varies only where prompts have replicates (several seeds, several samples) under
    both treatments: with one number each it cannot be told from noise.

    Args:
        values: The numbers, [n_values], in the metric's unit.
        is_b: 1 where a number is of treatment b, 0 where it is of a, [n_values].
        prompts: Which prompt each number belongs to, [n_values].
        level: The confidence level.

    Raises:
        ParameterError: If there are fewer than three prompts, one treatment alone, numbers without
            any spread, or a singular fit.

    Source:
        Laird and Ware, "Random-effects models for longitudinal data" (1982), by restricted maximum
        likelihood (statsmodels); which effects are random: Barr et al., "Random effects structure
        for confirmatory hypothesis testing: keep it maximal" (2013).

    Example:
        >>> a = np.array([1.0, 2.1, 3.2, 4.0, 5.1])
        >>> values, is_b = np.concatenate([a, a + [1.0, 0.9, 1.1, 1.2, 0.8]]), np.repeat([0, 1], 5)
        >>> round(mixed_model(values, is_b, [*range(5), *range(5)]).estimate, 3)
        1.0
    """
    labels = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts))}
    groups = np.array([labels[prompt] for prompt in prompts])
    values, is_b = np.asarray(values, np.float64), np.asarray(is_b, np.float64)
    _check(values, is_b, groups)
    # Scaled, because the optimiser's tolerances are absolute.
    scale = float(values.std())
    exog = np.column_stack([np.ones_like(is_b), is_b])
    cells = np.bincount(groups * 2 + is_b.astype(int), minlength=2 * len(labels)).reshape(-1, 2)
    slopes = bool((cells > 1).all(axis=1).any())
    fit, converged = _fit((values - values.mean()) / scale, exog, groups, slopes)
    error = float(fit.bse_fe[1]) * scale
    estimate = float(fit.fe_params[1]) * scale
    from scipy.special import ndtri

    reach = float(ndtri((1 + level) / 2)) * error
    random = np.sqrt(np.clip(np.diag(fit.cov_re), 0, None)) * scale
    effects = "intercept and difference" if slopes else "intercept"
    return MixedEstimate(
        estimate=estimate,
        low=estimate - reach,
        high=estimate + reach,
        level=level,
        p=float(fit.pvalues[1]),
        n=len(labels),
        n_values=len(values),
        sd_prompt=float(random[0]),
        sd_slope=float(random[1]) if slopes else float("nan"),
        sd_residual=float(np.sqrt(fit.scale)) * scale,
        converged=converged,
        method=f"linear mixed model by REML (statsmodels MixedLM), random {effects} of each prompt",
    )


def _check(values: Floats, is_b: Floats, groups: Floats) -> None:
    if not len(values) == len(is_b) == len(groups):
        raise ParameterError(
            f"{len(values)} values, {len(is_b)} treatments and {len(groups)} prompts do not belong "
            "together; give one of each for every number."
        )
    n = len(np.unique(groups))
    if n < 3:
        raise ParameterError(f"A mixed model of {n} prompts cannot be fitted; give 3 or more.")
    if set(np.unique(is_b)) != {0.0, 1.0}:
        raise ParameterError("A mixed model compares two treatments: is_b has to be both 0 and 1.")
    if not np.isfinite(values).all() or np.ptp(values) <= 1e-12 * np.abs(values).max():
        raise ParameterError("A mixed model needs finite numbers that are not all equal.")


def _fit(values: Floats, exog: Floats, groups: Floats, slopes: bool) -> tuple[Any, bool]:
    # Half a second to import, so only when asked for.
    from statsmodels.regression.mixed_linear_model import MixedLM
    from statsmodels.tools.sm_exceptions import ConvergenceWarning, SingularMatrixWarning

    model = MixedLM(values, exog, groups=groups, exog_re=exog if slopes else None)
    with warnings.catch_warnings():
        # A variance of 0, at the boundary, is an answer and not a failure.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", SingularMatrixWarning)
        # Without gradients, which lead astray near that boundary: BFGS stopped at a log-likelihood
        # 2 lower on data whose difference hardly varied.
        try:
            fit = model.fit(reml=True, method=["powell"])
        except np.linalg.LinAlgError as error:
            raise ParameterError(f"The mixed model cannot be fitted: {error}.") from error
    return fit, bool(fit.converged)
