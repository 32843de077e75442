"""Training in one process of one or many: the loop, a step, its state. Knows no Ray."""
