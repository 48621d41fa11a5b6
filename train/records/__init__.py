"""What a run leaves in its workdir, and how a finished run is opened again."""
