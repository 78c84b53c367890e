"""How good are the masks: AP under named policies, quality calibration, error types."""
