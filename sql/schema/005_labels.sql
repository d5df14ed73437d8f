-- names and where they came from

CREATE TABLE labels (
    layer INTEGER,
    neuron INTEGER,
    "pass" VARCHAR,
    polarity TINYINT,
    label VARCHAR,
    short_label VARCHAR,
    description VARCHAR,
    type VARCHAR,
    interpretability VARCHAR,
    confidence VARCHAR,
    status VARCHAR,
    source VARCHAR,
    model VARCHAR,
    prompt_version VARCHAR,
    prompt_hash VARCHAR,
    run VARCHAR,
    score DOUBLE,
    created VARCHAR
);
COMMENT ON TABLE labels IS 'every label of every neuron with its source; neurons.label is chosen from it';
COMMENT ON COLUMN labels.layer IS 'layer, from 0';
COMMENT ON COLUMN labels.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN labels."pass" IS 'output (what it does), input (what triggers it), autointerp or manual';
COMMENT ON COLUMN labels.polarity IS '+1 or -1 for the sign of activation it describes; 0 for both';
COMMENT ON COLUMN labels.label IS 'the label; NULL when the request failed';
COMMENT ON COLUMN labels.short_label IS 'a few words';
COMMENT ON COLUMN labels.description IS 'longer text with the evidence';
COMMENT ON COLUMN labels.type IS 'output: lexical, semantic, routing, formatting; input: combination, token-pattern, upstream-gated, context, position';
COMMENT ON COLUMN labels.interpretability IS 'high, medium or low';
COMMENT ON COLUMN labels.confidence IS 'how it was made';
COMMENT ON COLUMN labels.status IS 'ok, or why there is no label (parse_error, refused, api_error)';
COMMENT ON COLUMN labels.source IS 'rule:..., llm, import:..., manual';
COMMENT ON COLUMN labels.model IS 'model that wrote it';
COMMENT ON COLUMN labels.prompt_version IS 'version of the prompt template';
COMMENT ON COLUMN labels.prompt_hash IS 'hash of the rendered prompt';
COMMENT ON COLUMN labels.run IS 'labelling run';
COMMENT ON COLUMN labels.score IS 'quality score of the label; NULL when not scored';
COMMENT ON COLUMN labels.created IS 'date, ISO 8601; NULL for rules';
