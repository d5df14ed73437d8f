-- The edges that the strongest paths between two sets of neurons are made of; nothing that could be on one is missing.
-- of_sources, of_targets: packed ids of the two ends. hops: most edges of a path, 1 to 6. at_least_count: fewest
-- observations of an edge. of_score: 'product' of the mean |F| of the edges, or 'bottleneck' = the smallest of them.
-- max_rows: how many paths the edges must suffice for; NULL for all paths of at most `hops` edges.
-- size: mean |F|; kept: a score that max_rows paths are known to reach, 0 where there are fewer. Ordered by src, tgt.
-- Edges of mean |F| 0 carry nothing and are left out. In a file with cycles a "path" may visit a neuron twice.
-- How: f = best score of i edges from a source (f1, f2, f3), b = of j edges to a target. With both, every neuron or
-- edge in the middle of a path knows the best path through it (m1..m6, by number of edges), and these are different
-- paths: the max_rows-th best of them (top2..top6) is a score that is reached. What cannot reach it even over the
-- largest |F| there is (w) leaves the next step, which is most where an end has many thousand edges.
-- Try: FROM path_edges([0, 1, 2], [22, 23], hops := 2)
CREATE OR REPLACE MACRO path_edges(
    of_sources, of_targets, hops := 5, at_least_count := 1, of_score := 'product', max_rows := 10
) AS TABLE
WITH s AS MATERIALIZED (
    SELECT DISTINCT unnest(of_sources)::INTEGER AS id
), t AS MATERIALIZED (
    SELECT DISTINCT unnest(of_targets)::INTEGER AS id
), most AS MATERIALIZED ( -- no mean |F| exceeds the largest |F|, which is answered from statistics, without a scan
    SELECT of_score = 'bottleneck' AS narrow, CASE WHEN of_score = 'bottleneck' THEN 1 ELSE w END AS w,
        CASE WHEN of_score = 'bottleneck' THEN 1 ELSE greatest(1, w) END AS longer
    FROM (SELECT coalesce(greatest(max(weight_max), -min(weight_min))::DOUBLE * (1 + 1e-6), 1e30) AS w FROM edges)
    WHERE CASE WHEN hops BETWEEN 1 AND 6 THEN true ELSE error('path_edges goes 1 to 6 hops') END
), f1 AS MATERIALIZED (
    SELECT e.tgt AS id, max(e.weight_abs_sum::DOUBLE / e.count) AS f
    FROM edges AS e JOIN s ON e.src = s.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
    GROUP BY e.tgt
), b1 AS MATERIALIZED (
    SELECT e.src AS id, max(e.weight_abs_sum::DOUBLE / e.count) AS b
    FROM edges AS e JOIN t ON e.tgt = t.id
    WHERE e.src IN (SELECT i.src FROM edges_in AS i JOIN t ON i.tgt = t.id)
        AND e.count >= at_least_count AND e.weight_abs_sum > 0
    GROUP BY e.src
), m1 AS MATERIALIZED (
    SELECT e.src, e.tgt, e.weight_abs_sum::DOUBLE / e.count AS score
    FROM edges AS e JOIN s ON e.src = s.id JOIN t ON e.tgt = t.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
), m2 AS MATERIALIZED (
    SELECT f1.id, CASE WHEN narrow THEN least(f, b) ELSE f * b END AS score
    FROM f1 JOIN b1 USING (id), most WHERE hops >= 2
), top2 AS MATERIALIZED (
    SELECT score FROM (SELECT score FROM m1 UNION ALL SELECT score FROM m2) ORDER BY score DESC LIMIT max_rows
), kept2 AS MATERIALIZED (
    SELECT CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END AS kept FROM top2
), m3 AS MATERIALIZED (
    SELECT e.src, e.tgt, CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) * b END AS score
    FROM edges AS e JOIN f1 ON e.src = f1.id JOIN b1 ON e.tgt = b1.id, most, kept2
    WHERE hops >= 3 AND e.count >= at_least_count AND e.weight_abs_sum > 0 AND score >= kept
), top3 AS MATERIALIZED (
    SELECT score FROM (FROM top2 UNION ALL SELECT score FROM m3) ORDER BY score DESC LIMIT max_rows
), at3 AS MATERIALIZED ( -- after: the most that can follow two edges when at least two more come
    SELECT narrow, w, longer, kept, CASE WHEN narrow THEN 1 ELSE after * w * longer ** (hops - 4) END AS after
    FROM most, (SELECT CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END AS kept FROM top3),
        (SELECT max(b) AS after FROM b1)
), f2 AS MATERIALIZED (
    SELECT e.tgt AS id, max(CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) END) AS f
    FROM edges AS e JOIN (FROM f1, at3 WHERE hops >= 4 AND f * w * after >= kept) AS p ON e.src = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
            ELSE f * (e.weight_abs_sum::DOUBLE / e.count) * after END >= kept
    GROUP BY e.tgt
), b2 AS MATERIALIZED ( -- before: the most that can come before the last two edges when at least two do
    SELECT e.src AS id, max(CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE (e.weight_abs_sum::DOUBLE / e.count) * b END) AS b
    FROM edges AS e JOIN (
        FROM b1, at3, (SELECT max(f) * longer ** (hops - 4) AS before FROM f2, at3 GROUP BY longer)
        WHERE hops >= 4 AND CASE WHEN narrow THEN b ELSE b * w * before END >= kept
    ) AS p ON e.tgt = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
            ELSE (e.weight_abs_sum::DOUBLE / e.count) * b * before END >= kept
    GROUP BY e.src
), m4 AS MATERIALIZED (
    SELECT f2.id, CASE WHEN narrow THEN least(f, b) ELSE f * b END AS score
    FROM f2 JOIN b2 USING (id), at3 WHERE score >= kept
), top4 AS MATERIALIZED (
    SELECT score FROM (FROM top3 UNION ALL SELECT score FROM m4) ORDER BY score DESC LIMIT max_rows
), at4 AS MATERIALIZED (
    SELECT narrow, w, kept, CASE WHEN narrow THEN 1 ELSE before * w END AS before,
        CASE WHEN narrow THEN 1 ELSE after * w END AS after
    FROM most, (SELECT CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END AS kept FROM top4),
        (SELECT max(f) AS before FROM f2), (SELECT max(b) AS after FROM b2)
), m5 AS MATERIALIZED (
    SELECT e.src, e.tgt, CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) * b END AS score
    FROM edges AS e JOIN (FROM f2, at4 WHERE hops >= 5 AND f * after >= kept) AS p ON e.src = p.id
        JOIN (SELECT id, b FROM b2, at4 WHERE hops >= 5 AND b * before >= kept) AS q ON e.tgt = q.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0 AND score >= kept
), top5 AS MATERIALIZED (
    SELECT score FROM (FROM top4 UNION ALL SELECT score FROM m5) ORDER BY score DESC LIMIT max_rows
), at5 AS MATERIALIZED (
    SELECT narrow, w, after, CASE WHEN count(score) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END AS kept
    FROM at4 LEFT JOIN top5 ON true GROUP BY narrow, w, after
), f3 AS MATERIALIZED (
    SELECT e.tgt AS id, max(CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) END) AS f
    FROM edges AS e JOIN (FROM f2, at5 WHERE hops >= 6 AND f * w * after >= kept) AS p ON e.src = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
            ELSE f * (e.weight_abs_sum::DOUBLE / e.count) * after END >= kept
    GROUP BY e.tgt
), b3 AS MATERIALIZED (
    SELECT e.src AS id, max(CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE (e.weight_abs_sum::DOUBLE / e.count) * b END) AS b
    FROM edges AS e JOIN (
        FROM b2, at5, (SELECT max(f) AS before FROM f3) WHERE hops >= 6 AND CASE WHEN narrow THEN b ELSE b * w * before END >= kept
    ) AS p ON e.tgt = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
            ELSE (e.weight_abs_sum::DOUBLE / e.count) * b * before END >= kept
    GROUP BY e.src
), m6 AS MATERIALIZED (
    SELECT f3.id, CASE WHEN narrow THEN least(f, b) ELSE f * b END AS score
    FROM f3 JOIN b3 USING (id), at5 WHERE score >= kept
), at6 AS MATERIALIZED (
    SELECT CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END AS kept
    FROM (SELECT score FROM (FROM top5 UNION ALL SELECT score FROM m6) ORDER BY score DESC LIMIT max_rows)
), middle AS MATERIALIZED ( -- what is left of every length: a neuron (src = tgt) or an edge
    SELECT n, src, tgt, kept FROM (
        SELECT 1 AS n, src, tgt, score FROM m1 UNION ALL SELECT 2, id, id, score FROM m2
        UNION ALL SELECT 3, src, tgt, score FROM m3 UNION ALL SELECT 4, id, id, score FROM m4
        UNION ALL SELECT 5, src, tgt, score FROM m5 UNION ALL SELECT 6, id, id, score FROM m6
    ), at6 WHERE score >= kept
), before3 AS MATERIALIZED (
    SELECT i.src, i.tgt FROM edges_in AS i
    SEMI JOIN (FROM middle WHERE n = 6) AS m ON i.tgt = m.src SEMI JOIN f2 ON i.src = f2.id
), before2 AS MATERIALIZED (
    SELECT i.src, i.tgt FROM edges_in AS i
    SEMI JOIN (SELECT src FROM middle WHERE n IN (4, 5) UNION SELECT src FROM before3) AS m ON i.tgt = m.src
    SEMI JOIN f1 ON i.src = f1.id
), before1 AS (
    SELECT i.src, i.tgt FROM edges_in AS i
    SEMI JOIN (SELECT src FROM middle WHERE n IN (2, 3) UNION SELECT src FROM before2) AS m ON i.tgt = m.src
    SEMI JOIN s ON i.src = s.id
), after3 AS MATERIALIZED (
    SELECT e.src, e.tgt FROM edges AS e
    SEMI JOIN (FROM middle WHERE n = 6) AS m ON e.src = m.tgt SEMI JOIN b2 ON e.tgt = b2.id
), after2 AS MATERIALIZED (
    SELECT e.src, e.tgt FROM edges AS e
    SEMI JOIN (SELECT tgt FROM middle WHERE n IN (4, 5) UNION SELECT tgt FROM after3) AS m ON e.src = m.tgt
    SEMI JOIN b1 ON e.tgt = b1.id
), after1 AS (
    SELECT e.src, e.tgt FROM edges AS e
    SEMI JOIN (SELECT tgt FROM middle WHERE n IN (2, 3) UNION SELECT tgt FROM after2) AS m ON e.src = m.tgt
    SEMI JOIN t ON e.tgt = t.id
), needed AS (
    SELECT src, tgt FROM middle WHERE n IN (1, 3, 5) UNION FROM before3 UNION FROM before2 UNION FROM before1
    UNION FROM after3 UNION FROM after2 UNION FROM after1
)
SELECT e.src, e.tgt, e.weight_abs_sum::DOUBLE / e.count AS size, e.mean_weight, e.count, e.n_graphs, kept
FROM edges AS e JOIN needed AS p ON e.src = p.src AND e.tgt = p.tgt, at6
WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
ORDER BY e.src, e.tgt;
