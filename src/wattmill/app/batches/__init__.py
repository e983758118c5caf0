"""`/v1/files` and `/v1/batches`: work that may wait, at a lower price and with the lowest priority."""
