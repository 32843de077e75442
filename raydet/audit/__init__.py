"""`raydet check`: a data set looked through, every record and image, before a GPU is taken."""
