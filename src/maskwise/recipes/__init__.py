"""Runs: what is trained, on what, and how; complete, typed, and the same when read back."""
