"""The composition root: what is made, in which order, and how it begins and ends."""
