"""One folder for each architecture."""
