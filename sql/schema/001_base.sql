-- what the file is and where its content came from

CREATE TABLE metadata (
    key VARCHAR,
    value VARCHAR
);
COMMENT ON TABLE metadata IS 'facts about the whole atlas, one per key';
COMMENT ON COLUMN metadata.key IS 'name of the fact';
COMMENT ON COLUMN metadata.value IS 'its value as text';

CREATE TABLE ingests (
    step VARCHAR,
    key VARCHAR,
    source_file VARCHAR,
    size_bytes BIGINT,
    sha256 VARCHAR,
    rows_in BIGINT,
    rows_out BIGINT,
    rows_rejected BIGINT,
    reason VARCHAR,
    started TIMESTAMP,
    finished TIMESTAMP
);
COMMENT ON TABLE ingests IS 'ledger: what went into the atlas, step by step';
COMMENT ON COLUMN ingests.step IS 'build step that wrote';
COMMENT ON COLUMN ingests.key IS 'hash of the step''s code version, parameters and inputs: equal key = nothing to do';
COMMENT ON COLUMN ingests.source_file IS 'file the rows came from (name only); NULL for derived steps';
COMMENT ON COLUMN ingests.size_bytes IS 'size of the source in bytes';
COMMENT ON COLUMN ingests.sha256 IS 'content hash of the source';
COMMENT ON COLUMN ingests.rows_in IS 'rows read';
COMMENT ON COLUMN ingests.rows_out IS 'rows written';
COMMENT ON COLUMN ingests.rows_rejected IS 'rows refused';
COMMENT ON COLUMN ingests.reason IS 'why rows were refused; NULL when none were';
COMMENT ON COLUMN ingests.started IS 'start of the step, UTC';
COMMENT ON COLUMN ingests.finished IS 'end of the step, UTC';

CREATE TABLE vocab (
    token_id INTEGER,
    token VARCHAR,
    count BIGINT
);
COMMENT ON TABLE vocab IS 'the tokens of the model';
COMMENT ON COLUMN vocab.token_id IS 'id in the model''s vocabulary';
COMMENT ON COLUMN vocab.token IS 'decoded text as a person reads it; undecodable bytes escaped visibly';
COMMENT ON COLUMN vocab.count IS 'occurrences among the counted positions of the corpus; 0 where never seen';
