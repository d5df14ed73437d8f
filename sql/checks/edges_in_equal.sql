-- edges_in holds exactly the pairs of edges, each target's strongest first (compared by number and by the exact sum of
-- hashes of pair and rank).
SELECT a.n AS rows_of_edges, b.n AS rows_of_edges_in
FROM (
    SELECT count(*) AS n, sum(hash(src, tgt, rank)::HUGEINT) AS mark
    FROM (SELECT src, tgt, row_number() OVER (PARTITION BY tgt ORDER BY weight_abs_sum DESC, src) AS rank FROM edges)
) AS a
CROSS JOIN (SELECT count(*) AS n, sum(hash(src, tgt, rank::BIGINT)::HUGEINT) AS mark FROM edges_in) AS b
WHERE a.n <> b.n OR a.mark IS DISTINCT FROM b.mark;
