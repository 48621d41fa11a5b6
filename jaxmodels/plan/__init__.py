"""Plans a slice before it is rented: a step compiled ahead of time for chips that are not here."""
