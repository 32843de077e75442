"""`raydet.fit` in the driver process: the plan of a run, its folder, Ray, failures. Ray's name for it."""
