"""Which masks a person should look at first: predictions ranked by the quality that the model itself expects."""
