-- Tokens that the input rows of neurons read, by weights alone; what label scores rest on.

CREATE TABLE read_tokens (
    layer INTEGER,
    neuron INTEGER,
    part VARCHAR,
    polarity TINYINT,
    rank SMALLINT,
    token_id INTEGER,
    value FLOAT
);
COMMENT ON TABLE read_tokens IS 'tokens whose input embedding a neuron''s gate and up rows read most strongly, through the norm before the MLP, without attention, position and earlier layers';
COMMENT ON COLUMN read_tokens.layer IS 'layer, from 0';
COMMENT ON COLUMN read_tokens.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN read_tokens.part IS 'gate: row of the gate projection; up: row of the up projection, or of the only input map of an MLP without a gate. A gated activation is act(gate) * up';
COMMENT ON COLUMN read_tokens.polarity IS '+1 the row reads the token as positive, -1 as negative (part up only: a gate that a token closes is next to 0)';
COMMENT ON COLUMN read_tokens.rank IS '0 = strongest';
COMMENT ON COLUMN read_tokens.token_id IS 'token';
COMMENT ON COLUMN read_tokens.value IS 'share of the token in the pre-activation: row . norm(e), e the token''s input embedding, norm that before the MLP with gain and its own scale (none: row . e), biases left out';
COMMENT ON TABLE label_scores IS 'tests of labels, one row per label and method; 0.5 is chance for every method, 1 is perfect. Texts are of documents that no text behind an llm or rule label is of; token statistics, which these labels rest on too, count all documents';
