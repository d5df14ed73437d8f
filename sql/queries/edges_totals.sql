-- All that enters each of some neurons: the sum of |F| over all their incoming edges, and how many these are.
-- of_targets: packed ids. The unit of signed shares: weight_sum of an edge / weight_abs_sum of its target's edges.
-- Try: FROM edges_totals([10, 23])
CREATE OR REPLACE MACRO edges_totals(of_targets) AS TABLE
SELECT id AS tgt, n_in AS n_edges, weight_in AS weight_abs_sum
FROM edge_totals
WHERE n_in > 0 AND id IN (SELECT unnest(of_targets)::INTEGER)
ORDER BY id;
