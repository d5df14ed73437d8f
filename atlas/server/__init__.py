"""The questions over HTTP: one process that holds one atlas open read-only, and jobs in processes of their own."""
