-- How well labels predict what their neurons do on documents that they were not made from.

CREATE TABLE label_scores (
    layer INTEGER,
    neuron INTEGER,
    "pass" VARCHAR,
    polarity TINYINT,
    source VARCHAR,
    run VARCHAR,
    label VARCHAR,
    method VARCHAR,
    score DOUBLE,
    low DOUBLE,
    high DOUBLE,
    baseline DOUBLE,
    n INTEGER,
    seed BIGINT,
    model VARCHAR,
    created VARCHAR
);
COMMENT ON TABLE label_scores IS 'tests of labels, one row per label and method; 0.5 is chance for every method, 1 is perfect';
COMMENT ON COLUMN label_scores.layer IS 'layer, from 0';
COMMENT ON COLUMN label_scores.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN label_scores."pass" IS 'of the label (see labels)';
COMMENT ON COLUMN label_scores.polarity IS 'of the label';
COMMENT ON COLUMN label_scores.source IS 'of the label';
COMMENT ON COLUMN label_scores.run IS 'labelling run of the label';
COMMENT ON COLUMN label_scores.label IS 'the text that was tested; another one in labels has no score yet';
COMMENT ON COLUMN label_scores.method IS 'detection and fuzzing: share of n texts that an LLM judged rightly by the label; embedding: AUC of the likeness of label and text; output: AUC of the likeness of label and promoted tokens';
COMMENT ON COLUMN label_scores.score IS 'the score, 0 to 1';
COMMENT ON COLUMN label_scores.low IS 'lower end of its 95% interval (Wilson for shares, bootstrap for AUC)';
COMMENT ON COLUMN label_scores.high IS 'upper end of it';
COMMENT ON COLUMN label_scores.baseline IS 'the same texts or tokens scored with labels of other neurons of the layer; NULL when there are none';
COMMENT ON COLUMN label_scores.n IS 'texts or tokens, half of them of the neuron';
COMMENT ON COLUMN label_scores.seed IS 'seed of the draw';
COMMENT ON COLUMN label_scores.model IS 'LLM that judged, or model of the embeddings';
COMMENT ON COLUMN label_scores.created IS 'date, ISO 8601';

COMMENT ON COLUMN labels.score IS 'quality score of the label by the method that was last asked for (see label_scores); NULL when not scored';
