"""Parts of prediction: what pictures may be given as, tiles, batches that fit the memory, and folders of results."""
