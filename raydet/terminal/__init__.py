"""What a user sees of a run while it trains."""
