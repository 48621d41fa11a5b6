"""What a run's model says, explained: methods of the library on a page of HTML."""
