"""SQL of anybody: one statement at a time in a process that can reach nothing but the atlas, and be killed."""
