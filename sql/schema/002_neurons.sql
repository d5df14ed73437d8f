-- neurons and what was measured of each

CREATE TABLE neurons (
    layer INTEGER,
    neuron INTEGER,
    feature_id BIGINT,
    unit_type VARCHAR,
    label VARCHAR,
    description VARCHAR,
    input_label VARCHAR,
    output_label VARCHAR,
    max_activation FLOAT,
    num_exemplars INTEGER,
    appearance_count INTEGER,
    output_norm FLOAT,
    cluster_path VARCHAR USING COMPRESSION uncompressed, -- a dictionary of paths is unpacked whole for every row group that
    top_cluster INTEGER,
    sub_module INTEGER,
    subsub_module INTEGER,
    hierarchy_depth INTEGER,
    infomap_flow DOUBLE
);
COMMENT ON TABLE neurons IS 'all MLP neurons of the model, one row each, also those without a label';
COMMENT ON COLUMN neurons.layer IS 'layer, from 0';
COMMENT ON COLUMN neurons.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN neurons.feature_id IS 'packed id = layer * d_mlp + neuron: the src and tgt of edges';
COMMENT ON COLUMN neurons.unit_type IS 'kind of unit, mlp_neuron';
COMMENT ON COLUMN neurons.label IS 'chosen label (see table labels for all of them and their source)';
COMMENT ON COLUMN neurons.description IS 'longer text of the chosen label with its evidence';
COMMENT ON COLUMN neurons.input_label IS 'what makes it fire';
COMMENT ON COLUMN neurons.output_label IS 'what it does when it fires';
COMMENT ON COLUMN neurons.max_activation IS 'largest |activation| over the corpus';
COMMENT ON COLUMN neurons.num_exemplars IS 'stored exemplars of both signs';
COMMENT ON COLUMN neurons.appearance_count IS 'attribution graphs it is a node of';
COMMENT ON COLUMN neurons.output_norm IS 'L2 norm of its column of the down projection';
COMMENT ON COLUMN neurons.cluster_path IS 'module in the primary clustering, for example 158.4; NULL without edges and for neurons that share a module with no other';
COMMENT ON COLUMN neurons.top_cluster IS 'first part of cluster_path';
COMMENT ON COLUMN neurons.sub_module IS 'second part of cluster_path; NULL when the path is shorter';
COMMENT ON COLUMN neurons.subsub_module IS 'third part of cluster_path; NULL when the path is shorter';
COMMENT ON COLUMN neurons.hierarchy_depth IS 'number of modules on the path';
COMMENT ON COLUMN neurons.infomap_flow IS 'share of the random walker''s time spent on this neuron (stationary flow); 0 for neurons without incoming edges, such as those of layer 0; NULL outside all modules';

CREATE TABLE neuron_stats (
    layer INTEGER,
    neuron INTEGER,
    n_tokens BIGINT,
    s1 DOUBLE,
    s2 DOUBLE,
    s3 DOUBLE,
    s4 DOUBLE,
    abs_sum DOUBLE,
    n_active BIGINT,
    n_fired_pos BIGINT,
    n_fired_neg BIGINT,
    fire_pos FLOAT,
    fire_neg FLOAT,
    min FLOAT,
    max FLOAT,
    hist_lo FLOAT,
    hist_hi FLOAT,
    hist BIGINT[],
    quantiles FLOAT[],
    calib_gate DOUBLE,
    calib_up DOUBLE,
    grad_tokens BIGINT,
    grad_s_a DOUBLE,
    grad_s_a2 DOUBLE,
    grad_s_abs DOUBLE,
    grad_s_g2 DOUBLE,
    grad_s_ag DOUBLE,
    grad_s_a2g2 DOUBLE,
    grad_s_absag DOUBLE,
    grad_s_ag2 DOUBLE
);
COMMENT ON TABLE neuron_stats IS 'activation statistics over the corpus, BOS positions excluded';
COMMENT ON COLUMN neuron_stats.layer IS 'layer, from 0';
COMMENT ON COLUMN neuron_stats.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN neuron_stats.n_tokens IS 'counted positions';
COMMENT ON COLUMN neuron_stats.s1 IS 'sum of a';
COMMENT ON COLUMN neuron_stats.s2 IS 'sum of a^2';
COMMENT ON COLUMN neuron_stats.s3 IS 'sum of a^3';
COMMENT ON COLUMN neuron_stats.s4 IS 'sum of a^4';
COMMENT ON COLUMN neuron_stats.abs_sum IS 'sum of |a|';
COMMENT ON COLUMN neuron_stats.n_active IS 'positions with a > 0';
COMMENT ON COLUMN neuron_stats.n_fired_pos IS 'positions with a > fire_pos';
COMMENT ON COLUMN neuron_stats.n_fired_neg IS 'positions with a < fire_neg';
COMMENT ON COLUMN neuron_stats.fire_pos IS 'threshold of a strong positive firing: a quantile over calibration tokens from all over the corpus; NULL when that quantile is not positive';
COMMENT ON COLUMN neuron_stats.fire_neg IS 'threshold of a strong negative firing, likewise; NULL when that quantile is not negative';
COMMENT ON COLUMN neuron_stats.min IS 'smallest activation';
COMMENT ON COLUMN neuron_stats.max IS 'largest activation';
COMMENT ON COLUMN neuron_stats.hist_lo IS 'left edge of the first inner histogram bin';
COMMENT ON COLUMN neuron_stats.hist_hi IS 'right edge of the last inner histogram bin';
COMMENT ON COLUMN neuron_stats.hist IS 'counts: underflow, 64 equal bins over [hist_lo, hist_hi), overflow';
COMMENT ON COLUMN neuron_stats.quantiles IS 'activation at 1, 5, 25, 50, 75, 95, 99 percent, interpolated inside histogram bins';
COMMENT ON COLUMN neuron_stats.calib_gate IS 'mean of r u act''(g): A of the calibrated wiring strength; NULL for ungated MLPs';
COMMENT ON COLUMN neuron_stats.calib_up IS 'mean of r act(g): B of the calibrated wiring strength (ungated: mean of r act''(z))';
COMMENT ON COLUMN neuron_stats.grad_tokens IS 'positions of the gradient pass over the calibration documents; NULL without one';
COMMENT ON COLUMN neuron_stats.grad_s_a IS 'sum of a in the gradient pass';
COMMENT ON COLUMN neuron_stats.grad_s_a2 IS 'sum of a^2 in the gradient pass';
COMMENT ON COLUMN neuron_stats.grad_s_abs IS 'sum of |a| in the gradient pass';
COMMENT ON COLUMN neuron_stats.grad_s_g2 IS 'sum of g^2, g = dL/da, L = summed negative log likelihood in nats';
COMMENT ON COLUMN neuron_stats.grad_s_ag IS 'sum of a g';
COMMENT ON COLUMN neuron_stats.grad_s_a2g2 IS 'sum of a^2 g^2';
COMMENT ON COLUMN neuron_stats.grad_s_absag IS 'sum of |a g|';
COMMENT ON COLUMN neuron_stats.grad_s_ag2 IS 'sum of a g^2';

CREATE TABLE weight_stats (
    name VARCHAR,
    layer INTEGER,
    total_parameters BIGINT,
    non_zero_parameters BIGINT,
    sparsity DOUBLE,
    mean_magnitude DOUBLE,
    std_magnitude DOUBLE,
    min_magnitude DOUBLE,
    max_magnitude DOUBLE,
    l1_norm DOUBLE,
    l2_norm DOUBLE
);
COMMENT ON TABLE weight_stats IS 'weight analysis, one row per weight tensor';
COMMENT ON COLUMN weight_stats.name IS 'tensor name in the checkpoint';
COMMENT ON COLUMN weight_stats.layer IS 'layer, -1 for tensors outside the blocks';
COMMENT ON COLUMN weight_stats.total_parameters IS 'number of entries';
COMMENT ON COLUMN weight_stats.non_zero_parameters IS 'entries that are not exactly 0';
COMMENT ON COLUMN weight_stats.sparsity IS 'share of zeros';
COMMENT ON COLUMN weight_stats.mean_magnitude IS 'mean of |w|';
COMMENT ON COLUMN weight_stats.std_magnitude IS 'standard deviation of |w|';
COMMENT ON COLUMN weight_stats.min_magnitude IS 'smallest |w|';
COMMENT ON COLUMN weight_stats.max_magnitude IS 'largest |w|';
COMMENT ON COLUMN weight_stats.l1_norm IS 'sum of |w|';
COMMENT ON COLUMN weight_stats.l2_norm IS 'square root of the sum of w^2';

CREATE TABLE pruning (
    layer INTEGER,
    neuron INTEGER,
    weight_magnitude DOUBLE,
    weight_rank INTEGER,
    gate_norm DOUBLE,
    up_norm DOUBLE,
    output_norm DOUBLE,
    activation_magnitude DOUBLE,
    activation_variance DOUBLE,
    importance DOUBLE,
    pruning_score DOUBLE,
    score_method VARCHAR,
    eval_id VARCHAR
);
COMMENT ON TABLE pruning IS 'how safe each neuron is to remove; rows of different eval_id are never compared';
COMMENT ON COLUMN pruning.layer IS 'layer, from 0';
COMMENT ON COLUMN pruning.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN pruning.weight_magnitude IS 'mean |w| over the neuron''s own parameters (gate, up, out, biases)';
COMMENT ON COLUMN pruning.weight_rank IS 'rank of weight_magnitude within the layer, 1 = largest';
COMMENT ON COLUMN pruning.gate_norm IS 'L2 norm of the gate row; NULL for ungated MLPs';
COMMENT ON COLUMN pruning.up_norm IS 'L2 norm of the up row (in-projection)';
COMMENT ON COLUMN pruning.output_norm IS 'L2 norm of the out column';
COMMENT ON COLUMN pruning.activation_magnitude IS 'mean of |a| over the calibration positions';
COMMENT ON COLUMN pruning.activation_variance IS 'variance of a over the calibration positions';
COMMENT ON COLUMN pruning.importance IS 's_i of score_method (fisher: mean of ((a - mean a) g)^2; wifv: Var(a) ||w_out||^2; weights: weight_magnitude)';
COMMENT ON COLUMN pruning.pruning_score IS '1 - (ascending rank of importance - 1)/(n - 1) within the layer; higher = safer to prune';
COMMENT ON COLUMN pruning.score_method IS 'fisher, wifv or weights';
COMMENT ON COLUMN pruning.eval_id IS 'hash of model, revision, dtype, corpus, token count, sequence length';

CREATE TABLE partitions (
    method VARCHAR,
    parameters VARCHAR,
    seed BIGINT,
    layer INTEGER,
    neuron INTEGER,
    cluster_path VARCHAR,
    flow DOUBLE
);
COMMENT ON TABLE partitions IS 'cluster assignments of every clustering run';
COMMENT ON COLUMN partitions.method IS 'algorithm';
COMMENT ON COLUMN partitions.parameters IS 'its parameters as JSON';
COMMENT ON COLUMN partitions.seed IS 'random seed';
COMMENT ON COLUMN partitions.layer IS 'layer, from 0';
COMMENT ON COLUMN partitions.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN partitions.cluster_path IS 'module path, finest module last, never the leaf''s own rank';
COMMENT ON COLUMN partitions.flow IS 'stationary flow of the neuron; NULL for methods without flow';

CREATE TABLE clusters (
    cluster_path VARCHAR,
    level INTEGER,
    top_cluster INTEGER,
    sub_module INTEGER,
    subsub_module INTEGER,
    size INTEGER,
    layer_min INTEGER,
    layer_max INTEGER,
    median_layer DOUBLE,
    flow DOUBLE,
    label VARCHAR,
    internal_weight DOUBLE,
    outgoing_weight DOUBLE,
    incoming_weight DOUBLE
);
COMMENT ON TABLE clusters IS 'modules of the primary clustering, one row per real module of every level';
COMMENT ON COLUMN clusters.cluster_path IS 'path from the top, for example 158.4';
COMMENT ON COLUMN clusters.level IS '1 = top';
COMMENT ON COLUMN clusters.top_cluster IS 'first part of the path';
COMMENT ON COLUMN clusters.sub_module IS 'second part; NULL at level 1';
COMMENT ON COLUMN clusters.subsub_module IS 'third part; NULL above level 3';
COMMENT ON COLUMN clusters.size IS 'neurons in the module and below';
COMMENT ON COLUMN clusters.layer_min IS 'lowest layer of a member';
COMMENT ON COLUMN clusters.layer_max IS 'highest layer of a member';
COMMENT ON COLUMN clusters.median_layer IS 'median layer of the members';
COMMENT ON COLUMN clusters.flow IS 'sum of the members'' stationary flow';
COMMENT ON COLUMN clusters.label IS 'name of the module from its members'' labels';
COMMENT ON COLUMN clusters.internal_weight IS 'sum of mean_abs_weight over edges with both ends inside';
COMMENT ON COLUMN clusters.outgoing_weight IS 'the same over edges that leave the module';
COMMENT ON COLUMN clusters.incoming_weight IS 'the same over edges that enter the module';
