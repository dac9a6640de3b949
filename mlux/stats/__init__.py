"""Is a difference real: intervals, paired tests, and correction for having looked many times.

Plain functions on arrays. SciPy is imported when it is needed: it costs half a second.
"""

from mlux.stats.resampling import (
    N_RESAMPLES,
    Floats,
    benjamini_hochberg,
    mean_interval,
    sign_flip_p,
)

__all__ = ["N_RESAMPLES", "Floats", "benjamini_hochberg", "mean_interval", "sign_flip_p"]
