"""A small CaseyOS-like service: signals become scored recommendations, recommendations become actions, actions have outcomes."""
