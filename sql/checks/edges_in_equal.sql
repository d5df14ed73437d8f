-- edges_in holds exactly the pairs of edges (compared by number and by the exact sum of pair hashes).
SELECT a.n AS rows_of_edges, b.n AS rows_of_edges_in
FROM (SELECT count(*) AS n, sum(hash(src, tgt)::HUGEINT) AS mark FROM edges) AS a
CROSS JOIN (SELECT count(*) AS n, sum(hash(src, tgt)::HUGEINT) AS mark FROM edges_in) AS b
WHERE a.n <> b.n OR a.mark IS DISTINCT FROM b.mark;
