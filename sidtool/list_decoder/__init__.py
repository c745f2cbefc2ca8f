"""Decodes lists: several SIDs one after another, none of whose items is repeated."""
