"""The attention names of mlux 0.2 under their old module path; they live in `mlux.compat`."""

from mlux.compat import compute_attention_patterns, get_attention_info

__all__ = ["compute_attention_patterns", "get_attention_info"]
