"""Tables -> more tables: modules, labels."""
