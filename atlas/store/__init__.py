"""The only code that opens DuckDB: connections, schema, writing, ledger, checks."""
