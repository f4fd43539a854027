"""From a recipe's sources to batches: caches, buckets, schedule, loader."""
