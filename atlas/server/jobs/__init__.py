"""Work over a second -> jobs: kept in a file of their own, done by worker processes, watched and cancelled by id."""
