"""A recipe -> a finished atlas: steps, their keys, and an executor that does only what is missing."""
