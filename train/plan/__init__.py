"""Plans a slice before it is rented: the training step compiled ahead of time for chips that are
not here."""
