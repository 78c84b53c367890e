"""Importers of checkpoints that other programs wrote; and what a model hands on to one of other classes."""
