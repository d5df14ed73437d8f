"""The command line: a command parses, calls one function, prints. Data on stdout, notes on stderr."""
