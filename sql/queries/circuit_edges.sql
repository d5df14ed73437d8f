-- What a circuit is cut from: every edge into a range of targets, from which each edge's share of its target's input is taken.
-- of_first, of_last: packed ids of the first and last target. of_targets: only into these; NULL for all between.
-- No order is asked for (sorting 84M rows would take longer than all the rest); of a built atlas they come by src, tgt.
-- An edge's share A(s, t) = weight_abs_sum(s, t) / (sum over every edge into t and every embedding that feeds t).
-- The sum is over all that is stored; edges that were cut when the atlas was built (metadata edges_cut and
-- edge_truncation) are in no sum.
-- Try: FROM circuit_edges(8, 15)
CREATE OR REPLACE MACRO circuit_edges(of_first, of_last, of_targets := NULL) AS TABLE
SELECT src, tgt, weight_abs_sum, weight_sum, "count"
FROM edges
WHERE tgt BETWEEN of_first AND of_last
    AND (of_targets IS NULL OR tgt IN (SELECT unnest(of_targets)));
