-- What modules were called, by whom and from which prompt: clusters.label shows the name of an ok row.

CREATE TABLE cluster_labels (
    clustering VARCHAR,
    cluster_path VARCHAR,
    label VARCHAR,
    description VARCHAR,
    interpretability VARCHAR,
    status VARCHAR,
    source VARCHAR,
    model VARCHAR,
    prompt_version VARCHAR,
    prompt_hash VARCHAR,
    run VARCHAR,
    created VARCHAR
);
COMMENT ON TABLE cluster_labels IS 'labels of modules with their source; rows of a clustering that was made anew are those of its earlier modules until they are labelled again';
COMMENT ON COLUMN cluster_labels.clustering IS 'clustering the module is of (see clusterings)';
COMMENT ON COLUMN cluster_labels.cluster_path IS 'module';
COMMENT ON COLUMN cluster_labels.label IS 'the label; NULL when the request failed';
COMMENT ON COLUMN cluster_labels.description IS 'what the members have in common; of a failure, what went wrong';
COMMENT ON COLUMN cluster_labels.interpretability IS 'high, medium or low';
COMMENT ON COLUMN cluster_labels.status IS 'ok, or why there is no label (parse_error, refused, truncated, api_error)';
COMMENT ON COLUMN cluster_labels.source IS 'llm';
COMMENT ON COLUMN cluster_labels.model IS 'model that wrote it';
COMMENT ON COLUMN cluster_labels.prompt_version IS 'name, version and hash of the prompt template';
COMMENT ON COLUMN cluster_labels.prompt_hash IS 'key of the request in the ledger: hash of all that was sent';
COMMENT ON COLUMN cluster_labels.run IS 'labelling run';
COMMENT ON COLUMN cluster_labels.created IS 'date, ISO 8601';
COMMENT ON COLUMN labels.status IS 'ok, or why there is no label (parse_error, refused, truncated, api_error)';
COMMENT ON COLUMN labels.prompt_version IS 'version of the prompt template; llm: its name, version and the hash of its file';
COMMENT ON COLUMN labels.prompt_hash IS 'hash of the rendered prompt; llm: key of the request in the ledger, the hash of all that was sent';
