-- What look-ups from the target's side need without reading edges: the order of a target's edges, and totals by neuron.

ALTER TABLE edges_in ADD COLUMN rank INTEGER;
COMMENT ON TABLE edges_in IS 'the same edges from the target''s side, sorted by tgt, rank';
COMMENT ON COLUMN edges_in.rank IS '1 = the edge into tgt with the largest weight_abs_sum (of equal ones the smaller src)';

CREATE TABLE edge_totals (
    id INTEGER,
    n_out INTEGER,
    n_in INTEGER,
    weight_out DOUBLE,
    weight_in DOUBLE,
    norm_out DOUBLE,
    norm_in DOUBLE
);
COMMENT ON TABLE edge_totals IS 'edges of each neuron that has any: how many and how strong, sorted by id';
COMMENT ON COLUMN edge_totals.id IS 'packed id of the neuron';
COMMENT ON COLUMN edge_totals.n_out IS 'edges out of it';
COMMENT ON COLUMN edge_totals.n_in IS 'edges into it';
COMMENT ON COLUMN edge_totals.weight_out IS 'sum of weight_abs_sum over its edges out, taken in whole units of 1e-18';
COMMENT ON COLUMN edge_totals.weight_in IS 'sum of weight_abs_sum over its edges in';
COMMENT ON COLUMN edge_totals.norm_out IS 'L2 norm of weight_sum over its edges out';
COMMENT ON COLUMN edge_totals.norm_in IS 'L2 norm of weight_sum over its edges in';
