"""How often a bootstrap interval of level 95 % covers the truth, by the number of units.

    python benchmarks/interval_coverage.py [SIMULATIONS]

Normal data, and gamma data with a skewness of 1; seed 0.
"""

import sys

import numpy as np

from mlux.stats import mean_interval


def main() -> None:
    """Simulates and prints."""
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 4000
    rng = np.random.default_rng(0)
    print(f"{'units':>6}{'normal':>8}{'skewed':>8}")
    for n in (5, 8, 10, 15, 20, 30, 50, 100):
        covered = []
        for data in (
            rng.normal(0.0, 1.0, (simulations, n)),
            (rng.gamma(4.0, 1.0, (simulations, n)) - 4.0) / 2.0,
        ):
            low, high = mean_interval(data, n_resamples=1999)
            covered.append(float(np.mean((low <= 0) & (high >= 0))))
        print(f"{n:>6}{covered[0]:>8.1%}{covered[1]:>8.1%}")


if __name__ == "__main__":
    main()
