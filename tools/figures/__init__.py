"""The figures of docs/experiments, one module an experiment, drawn from real runs."""
