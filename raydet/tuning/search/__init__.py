"""Which trials a search starts, and which it stops."""
