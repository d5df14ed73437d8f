-- texts, tokens and weights that say what a neuron does

CREATE TABLE contexts (
    context_id BIGINT,
    corpus VARCHAR,
    document BIGINT,
    "offset" INTEGER,
    token_ids INTEGER[]
);
COMMENT ON TABLE contexts IS 'texts that exemplars point into';
COMMENT ON COLUMN contexts.context_id IS 'id, unique in the corpus';
COMMENT ON COLUMN contexts.corpus IS 'name of the corpus';
COMMENT ON COLUMN contexts.document IS 'index of the document';
COMMENT ON COLUMN contexts."offset" IS 'index of the first token in the document';
COMMENT ON COLUMN contexts.token_ids IS 'tokens, BOS included where the model uses one';

CREATE TABLE exemplars (
    layer INTEGER,
    neuron INTEGER,
    polarity TINYINT,
    stratum SMALLINT,
    rank SMALLINT,
    activation FLOAT,
    context_id BIGINT,
    position INTEGER,
    window_start INTEGER,
    "window" FLOAT[]
);
COMMENT ON TABLE exemplars IS 'strongest activations of both signs and a sample inside quantile strata';
COMMENT ON COLUMN exemplars.layer IS 'layer, from 0';
COMMENT ON COLUMN exemplars.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN exemplars.polarity IS '+1 or -1: half of all gated activations are negative';
COMMENT ON COLUMN exemplars.stratum IS '0 = the strongest; 1.. = sample inside a quantile stratum, weakest first';
COMMENT ON COLUMN exemplars.rank IS '0 = strongest of its stratum';
COMMENT ON COLUMN exemplars.activation IS 'activation at the position';
COMMENT ON COLUMN exemplars.context_id IS 'context it stands in';
COMMENT ON COLUMN exemplars.position IS 'token position in the context';
COMMENT ON COLUMN exemplars.window_start IS 'first position of window';
COMMENT ON COLUMN exemplars."window" IS 'activations of consecutive positions around the position';

CREATE TABLE token_stats (
    layer INTEGER,
    neuron INTEGER,
    polarity TINYINT,
    token_id INTEGER,
    n BIGINT,
    sum DOUBLE,
    max FLOAT,
    min FLOAT
);
COMMENT ON TABLE token_stats IS 'what fires a neuron strongly, by token at the position (beyond fire_pos or fire_neg; truncated per neuron, see metadata token_stats_*)';
COMMENT ON COLUMN token_stats.layer IS 'layer, from 0';
COMMENT ON COLUMN token_stats.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN token_stats.polarity IS '+1 or -1';
COMMENT ON COLUMN token_stats.token_id IS 'token at the position';
COMMENT ON COLUMN token_stats.n IS 'strong firings on this token';
COMMENT ON COLUMN token_stats.sum IS 'sum of the activations';
COMMENT ON COLUMN token_stats.max IS 'largest activation';
COMMENT ON COLUMN token_stats.min IS 'smallest activation';

CREATE TABLE logit_lens (
    layer INTEGER,
    neuron INTEGER,
    polarity TINYINT,
    rank SMALLINT,
    token_id INTEGER,
    value FLOAT
);
COMMENT ON TABLE logit_lens IS 'tokens promoted (+1) or suppressed (-1) by a neuron''s output direction, final norm weight folded in';
COMMENT ON COLUMN logit_lens.layer IS 'layer, from 0';
COMMENT ON COLUMN logit_lens.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN logit_lens.polarity IS '+1 promoted, -1 suppressed when the activation is positive';
COMMENT ON COLUMN logit_lens.rank IS '0 = strongest';
COMMENT ON COLUMN logit_lens.token_id IS 'token';
COMMENT ON COLUMN logit_lens.value IS 'logit per unit of activation, before the final norm''s scale';

CREATE TABLE wiring (
    layer INTEGER,
    neuron INTEGER,
    direction VARCHAR,
    polarity TINYINT,
    rank SMALLINT,
    other_layer INTEGER,
    other_neuron INTEGER,
    c_up FLOAT,
    c_gate FLOAT,
    lab_strength FLOAT,
    effective_strength FLOAT,
    polarity_source VARCHAR
);
COMMENT ON TABLE wiring IS 'weight-based connections along the residual stream (no attention path), strongest per neuron and direction';
COMMENT ON COLUMN wiring.layer IS 'layer, from 0';
COMMENT ON COLUMN wiring.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN wiring.direction IS 'downstream (other is the target) or upstream (other is the source)';
COMMENT ON COLUMN wiring.polarity IS '+1 excitatory, -1 inhibitory';
COMMENT ON COLUMN wiring.rank IS '0 = strongest of its list';
COMMENT ON COLUMN wiring.other_layer IS 'layer of the other neuron';
COMMENT ON COLUMN wiring.other_neuron IS 'the other neuron';
COMMENT ON COLUMN wiring.c_up IS 'W_up row of the target . W_down column of the source, gain folded in (ungated: the in-projection)';
COMMENT ON COLUMN wiring.c_gate IS 'W_gate row of the target . W_down column of the source; NULL for ungated MLPs';
COMMENT ON COLUMN wiring.lab_strength IS 'sign-consistent sum of raw |c|; 0 when signs differ; NULL for ungated MLPs';
COMMENT ON COLUMN wiring.effective_strength IS 'strength the lists are ranked by';
COMMENT ON COLUMN wiring.polarity_source IS 'calibrated (activation statistics) or weights_only';
