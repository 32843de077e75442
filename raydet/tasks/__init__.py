"""Detection and classification: batches, loss and metrics behind one protocol."""
