-- The strongest edges, so that the global top needs no scan of all edges.
SELECT row_number() OVER (ORDER BY weight_abs_sum DESC, src, tgt)::INTEGER AS rank, src, tgt, weight_abs_sum
FROM (SELECT src, tgt, weight_abs_sum FROM edges ORDER BY weight_abs_sum DESC, src, tgt LIMIT 100000)
ORDER BY rank
