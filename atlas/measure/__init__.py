"""Models and text -> shards: the measuring floor; it knows torch and no database."""
