"""What can be wrong with data: rules, and the faults found."""
