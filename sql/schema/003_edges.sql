-- edges between neurons and what they were made of
-- The literal 384 marked /* d_mlp */ is the demo model's MLP width; the loader puts the model's own in its place
-- (a generated column cannot look it up: macros and sub-queries do not resolve when the file is attached).

CREATE TABLE edges (
    src INTEGER,
    tgt INTEGER,
    src_layer UTINYINT,
    src_neuron USMALLINT,
    count INTEGER,
    n_graphs INTEGER,
    weight_sum FLOAT,
    weight_abs_sum FLOAT,
    weight_sq_sum FLOAT,
    weight_min FLOAT,
    weight_max FLOAT,
    tgt_layer UTINYINT GENERATED ALWAYS AS ((tgt // 384 /* d_mlp */)::UTINYINT) VIRTUAL,
    tgt_neuron USMALLINT GENERATED ALWAYS AS ((tgt % 384 /* d_mlp */)::USMALLINT) VIRTUAL,
    mean_weight DOUBLE GENERATED ALWAYS AS ((weight_sum::DOUBLE / count)::DOUBLE) VIRTUAL,
    mean_abs_weight DOUBLE GENERATED ALWAYS AS ((weight_abs_sum::DOUBLE / count)::DOUBLE) VIRTUAL
);
COMMENT ON TABLE edges IS 'directed edges, sufficient statistics of the flow over all attribution graphs; sorted by src, tgt';
COMMENT ON COLUMN edges.src IS 'packed id of the source = layer * d_mlp + neuron';
COMMENT ON COLUMN edges.tgt IS 'packed id of the target';
COMMENT ON COLUMN edges.src_layer IS 'layer of the source';
COMMENT ON COLUMN edges.src_neuron IS 'neuron of the source';
COMMENT ON COLUMN edges.count IS 'observations: position pairs over all graphs, so one graph may count several times';
COMMENT ON COLUMN edges.n_graphs IS 'graphs with at least one observation';
COMMENT ON COLUMN edges.weight_sum IS 'sum of the flow F(s->t), in units of the metric (float projection of an exact sum)';
COMMENT ON COLUMN edges.weight_abs_sum IS 'sum of |F|';
COMMENT ON COLUMN edges.weight_sq_sum IS 'sum of F^2';
COMMENT ON COLUMN edges.weight_min IS 'smallest F';
COMMENT ON COLUMN edges.weight_max IS 'largest F';
COMMENT ON COLUMN edges.tgt_layer IS 'layer of the target (generated)';
COMMENT ON COLUMN edges.tgt_neuron IS 'neuron of the target (generated)';
COMMENT ON COLUMN edges.mean_weight IS 'weight_sum / count (generated)';
COMMENT ON COLUMN edges.mean_abs_weight IS 'weight_abs_sum / count (generated)';

CREATE TABLE edges_in (
    tgt INTEGER,
    src INTEGER
);
COMMENT ON TABLE edges_in IS 'the same edges from the target''s side, sorted by tgt, src';
COMMENT ON COLUMN edges_in.tgt IS 'packed id of the target';
COMMENT ON COLUMN edges_in.src IS 'packed id of the source';

CREATE TABLE edges_top (
    rank INTEGER,
    src INTEGER,
    tgt INTEGER,
    weight_abs_sum FLOAT
);
COMMENT ON TABLE edges_top IS 'the strongest edges of the atlas';
COMMENT ON COLUMN edges_top.rank IS '1 = largest weight_abs_sum';
COMMENT ON COLUMN edges_top.src IS 'packed id of the source';
COMMENT ON COLUMN edges_top.tgt IS 'packed id of the target';
COMMENT ON COLUMN edges_top.weight_abs_sum IS 'sum of |F| over all observations';

CREATE TABLE token_edges (
    kind VARCHAR,
    token_id INTEGER,
    layer INTEGER,
    neuron INTEGER,
    count INTEGER,
    n_graphs INTEGER,
    weight_sum FLOAT,
    weight_abs_sum FLOAT,
    weight_sq_sum FLOAT,
    weight_min FLOAT,
    weight_max FLOAT
);
COMMENT ON TABLE token_edges IS 'direct edges embedding -> neuron and neuron -> logit, statistics as in edges';
COMMENT ON COLUMN token_edges.kind IS 'embedding (token feeds neuron) or logit (neuron feeds token)';
COMMENT ON COLUMN token_edges.token_id IS 'token at the tail or head';
COMMENT ON COLUMN token_edges.layer IS 'layer, from 0';
COMMENT ON COLUMN token_edges.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN token_edges.count IS 'observations: position pairs over all graphs, so one graph may count several times';
COMMENT ON COLUMN token_edges.n_graphs IS 'graphs with at least one observation';
COMMENT ON COLUMN token_edges.weight_sum IS 'sum of the flow F(s->t), in units of the metric (float projection of an exact sum)';
COMMENT ON COLUMN token_edges.weight_abs_sum IS 'sum of |F|';
COMMENT ON COLUMN token_edges.weight_sq_sum IS 'sum of F^2';
COMMENT ON COLUMN token_edges.weight_min IS 'smallest F';
COMMENT ON COLUMN token_edges.weight_max IS 'largest F';

CREATE TABLE graphs (
    graph_id BIGINT,
    document BIGINT,
    prompt VARCHAR,
    token_ids INTEGER[],
    metric VARCHAR,
    metric_value DOUBLE,
    targets INTEGER[],
    target_position INTEGER,
    tau DOUBLE,
    n_nodes INTEGER,
    n_edges INTEGER,
    nodes_dropped INTEGER,
    relevance_dropped DOUBLE,
    explained DOUBLE,
    remainder DOUBLE,
    completeness_residual DOUBLE,
    edge_method VARCHAR,
    dtype VARCHAR,
    explained_neurons DOUBLE,
    source_file VARCHAR,
    source_hash VARCHAR
);
COMMENT ON TABLE graphs IS 'every attribution graph that went in';
COMMENT ON COLUMN graphs.graph_id IS 'id within the atlas';
COMMENT ON COLUMN graphs.document IS 'index of the document in the corpus; NULL for imported graphs';
COMMENT ON COLUMN graphs.prompt IS 'text of the prompt';
COMMENT ON COLUMN graphs.token_ids IS 'its tokens';
COMMENT ON COLUMN graphs.metric IS 'what was explained';
COMMENT ON COLUMN graphs.metric_value IS 'value m of the metric, in logits';
COMMENT ON COLUMN graphs.targets IS 'token ids of the metric';
COMMENT ON COLUMN graphs.target_position IS 'position of the metric';
COMMENT ON COLUMN graphs.tau IS 'selection threshold as a share of |m|';
COMMENT ON COLUMN graphs.n_nodes IS 'neuron nodes';
COMMENT ON COLUMN graphs.n_edges IS 'edges between neurons';
COMMENT ON COLUMN graphs.nodes_dropped IS 'nodes that a cap cut';
COMMENT ON COLUMN graphs.relevance_dropped IS 'sum of |R| of the nodes cut';
COMMENT ON COLUMN graphs.explained IS 'share of the relevance that the graph lists, from its neurons and from token embeddings: sum of sign(R) * listed / sum of |R| over all nodes and the metric; above 1 when what is missing has the opposite sign';
COMMENT ON COLUMN graphs.remainder IS 'relevance left unexplained, in units of the metric';
COMMENT ON COLUMN graphs.completeness_residual IS '|sum of input relevance - m| / |m|: 0 up to rounding';
COMMENT ON COLUMN graphs.edge_method IS 'relp_direct, relp_total, transcoder_direct, weight_graph, derived or unknown';
COMMENT ON COLUMN graphs.dtype IS 'floating-point type of the pass';
COMMENT ON COLUMN graphs.explained_neurons IS 'the same share from the listed neurons alone, without token embeddings';
COMMENT ON COLUMN graphs.source_file IS 'file it came from (name only)';
COMMENT ON COLUMN graphs.source_hash IS 'sha256 of that file';

CREATE TABLE neuron_graphs (
    layer INTEGER,
    neuron INTEGER,
    graph_id BIGINT,
    positions INTEGER,
    relevance DOUBLE,
    explained DOUBLE
);
COMMENT ON TABLE neuron_graphs IS 'which neurons each graph contains, sorted by layer, neuron, graph_id';
COMMENT ON COLUMN neuron_graphs.layer IS 'layer, from 0';
COMMENT ON COLUMN neuron_graphs.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN neuron_graphs.graph_id IS 'graph';
COMMENT ON COLUMN neuron_graphs.positions IS 'token positions at which it is a node';
COMMENT ON COLUMN neuron_graphs.relevance IS 'sum of its relevance R over these positions';
COMMENT ON COLUMN neuron_graphs.explained IS 'share of its relevance that the graph lists (see graphs.explained), mean over the positions weighted by |R|; NULL where R is 0';

CREATE TABLE cooccurrence (
    layer INTEGER,
    neuron INTEGER,
    rank SMALLINT,
    other_layer INTEGER,
    other_neuron INTEGER,
    n_graphs INTEGER,
    lift DOUBLE
);
COMMENT ON TABLE cooccurrence IS 'neurons that share attribution graphs, the strongest per neuron';
COMMENT ON COLUMN cooccurrence.layer IS 'layer, from 0';
COMMENT ON COLUMN cooccurrence.neuron IS 'neuron within the layer, from 0: coordinate of the input of the MLP''s down projection';
COMMENT ON COLUMN cooccurrence.rank IS '1 = most shared graphs';
COMMENT ON COLUMN cooccurrence.other_layer IS 'layer of the partner';
COMMENT ON COLUMN cooccurrence.other_neuron IS 'neuron of the partner';
COMMENT ON COLUMN cooccurrence.n_graphs IS 'graphs with both';
COMMENT ON COLUMN cooccurrence.lift IS 'n_graphs * graphs / (graphs with one * graphs with the other)';
