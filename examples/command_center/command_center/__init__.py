"""A small CaseyOS-like service: signals become recommendations, those become actions, and actions have outcomes."""
