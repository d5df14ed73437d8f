"""Evidence in the atlas -> names."""
