"""Imported by the process that workers are forked from, so that it stays when the program is told to stop."""

from maskwise.data import loader

loader.ignore_signals()
