"""Items with the same codes: policies, assignment of free codes, the overflow rule."""
