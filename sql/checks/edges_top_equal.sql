-- edges_top are edges with the weight stored there, ranked 1, 2, 3 ... by falling weight_abs_sum, and none stronger is left out.
SELECT t.rank, t.src, t.tgt, t.weight_abs_sum, 'not an edge with this weight' AS fault
FROM edges_top AS t LEFT JOIN edges AS e ON e.src = t.src AND e.tgt = t.tgt
WHERE e.weight_abs_sum IS DISTINCT FROM t.weight_abs_sum
UNION ALL
SELECT rank, src, tgt, weight_abs_sum, 'rank out of order' AS fault
FROM (SELECT *, row_number() OVER (ORDER BY weight_abs_sum DESC, src, tgt) AS place FROM edges_top)
WHERE rank IS DISTINCT FROM place
UNION ALL
SELECT NULL, src, tgt, weight_abs_sum, 'stronger than the last of edges_top and not in it' AS fault
FROM edges ANTI JOIN edges_top USING (src, tgt)
WHERE weight_abs_sum > (SELECT min(weight_abs_sum) FROM edges_top)
ORDER BY ALL;
