"""Is a difference real: intervals, tests, effect sizes, and correction for having looked often.

Plain functions on arrays with a row for each group, and records (`Estimate`, `MixedEstimate`,
`Power`) that carry n, method and seed. `mlux.compare` applies them to runs. SciPy and statsmodels
are imported when they are needed: they cost half a second each.
"""

from mlux.stats.arrays import N_RESAMPLES, Floats
from mlux.stats.bootstrap import difference_interval, mean_interval, paired_interval
from mlux.stats.bounded import Bounds
from mlux.stats.correction import benjamini_hochberg, max_t
from mlux.stats.effects import cliffs_delta, cohens_d, cohens_dz
from mlux.stats.equivalence import tost_p
from mlux.stats.estimate import Estimate, paired, unpaired
from mlux.stats.mixed import MixedEstimate, mixed_model
from mlux.stats.null import null_p
from mlux.stats.permutation import permutation_p, sign_flip_p
from mlux.stats.planning import Power, power, prompts_needed

__all__ = [
    "N_RESAMPLES",
    "Bounds",
    "Estimate",
    "Floats",
    "MixedEstimate",
    "Power",
    "benjamini_hochberg",
    "cliffs_delta",
    "cohens_d",
    "cohens_dz",
    "difference_interval",
    "max_t",
    "mean_interval",
    "mixed_model",
    "null_p",
    "paired",
    "paired_interval",
    "permutation_p",
    "power",
    "prompts_needed",
    "sign_flip_p",
    "tost_p",
    "unpaired",
]
