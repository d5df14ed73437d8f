-- The edges from the target's side, each target's strongest first.
SELECT tgt, src, row_number() OVER (PARTITION BY tgt ORDER BY weight_abs_sum DESC, src)::INTEGER AS rank
FROM edges
ORDER BY tgt, rank
