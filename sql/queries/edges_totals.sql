-- All that enters each of some neurons: the sum of |F| over all their incoming edges, and how many these are.
-- of_targets: packed ids. The unit of signed shares: weight_sum of an edge / weight_abs_sum of its target's edges.
-- Sums of floats are taken in whole units of 1e-18, so they do not depend on threads.
-- Try: FROM edges_totals([10, 23])
CREATE OR REPLACE MACRO edges_totals(of_targets) AS TABLE
WITH targets AS MATERIALIZED (
    SELECT DISTINCT unnest(of_targets)::INTEGER AS id
)
SELECT tgt, count(*) AS n_edges, sum(weight_abs_sum::DOUBLE::DECIMAL(38, 18))::DOUBLE AS weight_abs_sum
FROM edges
WHERE tgt IN (FROM targets) AND src IN (SELECT unnest((SELECT list(src) FROM edges_in WHERE tgt IN (FROM targets))))
GROUP BY tgt
ORDER BY tgt;
