"""Makes batches of a recipe's sources: caches, buckets, schedule, loader."""
