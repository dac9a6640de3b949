"""Tables, sessions, writers and readers of the lab notebook."""
