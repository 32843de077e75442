"""Where files lie: on disk, in an object store, in the cache."""
