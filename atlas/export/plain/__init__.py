"""Labels, edges, neurons and graphs of an atlas -> the files that data frames, spreadsheets and graph programs read."""
