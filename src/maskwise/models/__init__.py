"""Models that others can ask for by name: their table, what the package brings itself, and how the rest is fetched."""
