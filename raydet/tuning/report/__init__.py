"""What a search found: tables, figures, the live view."""
