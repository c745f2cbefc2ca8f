"""Foreign and messy data before it is read: a report of its problems, cleaning, and readers of
public data sets."""
