-- What ablating neurons does on held-out text, measured or estimated, alone and in sets.

CREATE TABLE impacts (
    set_id VARCHAR,
    eval_id VARCHAR,
    layer INTEGER,
    neuron INTEGER,
    neurons BIGINT[],
    n_neurons INTEGER,
    evidence VARCHAR,
    impact_score DOUBLE,
    kl DOUBLE,
    kl_low DOUBLE,
    kl_high DOUBLE,
    delta_nll DOUBLE,
    delta_nll_low DOUBLE,
    delta_nll_high DOUBLE,
    kl_p99 DOUBLE,
    top1_flip_rate DOUBLE,
    mean_change DOUBLE,
    max_change DOUBLE,
    tokens BIGINT,
    documents BIGINT,
    budget DOUBLE,
    safe_to_prune BOOLEAN,
    reason VARCHAR,
    activation_magnitude DOUBLE,
    activation_variance DOUBLE,
    is_critical BOOLEAN,
    sum_kl DOUBLE,
    joint_over_sum DOUBLE,
    ablation VARCHAR,
    corpus VARCHAR,
    model VARCHAR,
    revision VARCHAR,
    dtype VARCHAR,
    run VARCHAR,
    created VARCHAR
);
COMMENT ON TABLE impacts IS 'what the model loses without a set of neurons, one row per set and evaluation; rows of different eval_id are never compared';
COMMENT ON COLUMN impacts.set_id IS 'hash of eval_id and neurons';
COMMENT ON COLUMN impacts.eval_id IS 'hash of model, revision, dtype, held-out documents, their predicted tokens, context length and ablation; rows of different eval_id are never compared';
COMMENT ON COLUMN impacts.layer IS 'layer of the neuron; NULL for a set of several';
COMMENT ON COLUMN impacts.neuron IS 'neuron within the layer; NULL for a set of several';
COMMENT ON COLUMN impacts.neurons IS 'packed ids layer * d_mlp + neuron of the set, ascending';
COMMENT ON COLUMN impacts.n_neurons IS 'neurons in the set';
COMMENT ON COLUMN impacts.evidence IS 'measured: the set was ablated; estimated: predicted from scores calibrated on measured sets';
COMMENT ON COLUMN impacts.impact_score IS '0.1 * kl_high / budget: under 0.1 the damage is under the budget with 95% confidence; NULL with one document';
COMMENT ON COLUMN impacts.kl IS 'mean over predicted positions of KL(p of the model || p without the set), nats per token';
COMMENT ON COLUMN impacts.kl_low IS 'lower 95% limit of kl (5th percentile of a bootstrap over documents); NULL with one document';
COMMENT ON COLUMN impacts.kl_high IS 'upper 95% limit of kl (95th percentile of it)';
COMMENT ON COLUMN impacts.delta_nll IS 'loss without the set minus the model''s, nats per token';
COMMENT ON COLUMN impacts.delta_nll_low IS 'lower 95% limit of it';
COMMENT ON COLUMN impacts.delta_nll_high IS 'upper 95% limit of it';
COMMENT ON COLUMN impacts.kl_p99 IS '99th percentile over positions of the KL';
COMMENT ON COLUMN impacts.top1_flip_rate IS 'share of positions whose most likely token changes';
COMMENT ON COLUMN impacts.mean_change IS 'mean over positions of ||h'' - h|| / ||h|| at the end of the residual stream';
COMMENT ON COLUMN impacts.max_change IS 'largest of these';
COMMENT ON COLUMN impacts.tokens IS 'predicted positions';
COMMENT ON COLUMN impacts.documents IS 'held-out documents';
COMMENT ON COLUMN impacts.budget IS 'nats per token that the set is judged by (a neuron in a batch of m: the batch''s budget / m)';
COMMENT ON COLUMN impacts.safe_to_prune IS 'impact_score < 0.1; NULL where reason says why there is no verdict';
COMMENT ON COLUMN impacts.reason IS 'why there is no verdict: fewer than 10,000 tokens, one document, an estimate';
COMMENT ON COLUMN impacts.activation_magnitude IS 'mean of |a| of the neuron; NULL for a set of several and where it was not asked for';
COMMENT ON COLUMN impacts.activation_variance IS 'variance of a of the neuron; likewise';
COMMENT ON COLUMN impacts.is_critical IS 'impact above the 75th percentile of its layer and kl_low above the layer''s median; NULL where the layer was not analysed';
COMMENT ON COLUMN impacts.sum_kl IS 'sum of the kl of the members, each ablated alone; NULL for one neuron and where one was not measured';
COMMENT ON COLUMN impacts.joint_over_sum IS 'kl / sum_kl: above 1, members stand in for one another';
COMMENT ON COLUMN impacts.ablation IS 'what the activations become: mean (with the hash of the means) or zero';
COMMENT ON COLUMN impacts.corpus IS 'hash of the held-out documents';
COMMENT ON COLUMN impacts.model IS 'model';
COMMENT ON COLUMN impacts.revision IS 'hash of its weights';
COMMENT ON COLUMN impacts.dtype IS 'of the model when it was measured';
COMMENT ON COLUMN impacts.run IS 'when the measurement began';
COMMENT ON COLUMN impacts.created IS 'date, ISO 8601';
