"""Everything that makes the built-in model: `python -m tools.demo_model` does it all.

A word-level Llama of about 1.4 million parameters is trained from scratch on text that
`documents` writes about the little world of `world.json`. It exists so that the classic
interpretability experiments have known answers within seconds on any machine.
"""
