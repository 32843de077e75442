"""From an index to batches: order, loader processes, what a sample becomes."""
