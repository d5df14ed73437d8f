"""Tables -> answers, read only: one method = one macro of sql/queries."""
