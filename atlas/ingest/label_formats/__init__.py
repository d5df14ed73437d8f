"""Label files of other tools -> rows of labels: entries of a file, records of an entry, rows of a record."""
