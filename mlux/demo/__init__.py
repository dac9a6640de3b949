"""The built-in model, its card and its prompt sets."""
