-- The strongest paths from one set of neurons to another over directed edges: exact, with score, signs and every edge.
-- of_sources, of_targets: packed ids of the two ends. hops: most edges of a path, 1 to 6. at_least_count: fewest
-- observations of an edge. of_score: 'product' of the mean |F| of the edges, or 'bottleneck' = the smallest of them.
-- max_rows: how many paths; never NULL, because a neuron keeps so many best beginnings for each number of edges.
-- path: packed ids; neurons, labels: of the same; weights, counts: mean F and observations of each edge;
-- sign: of the product of the weights; geometric_mean: of |F|. Edges of mean |F| 0 carry nothing and are no part.
-- Ordered by score; equal scores by the product, then by path; of many equal bottlenecks the same few are always shown.
-- An error where a path could come back to a neuron (a cycle in the file).
-- How: f = best score of i edges from a source (f1, f2, f3), b = of j edges to a target. With both, every neuron or
-- edge in the middle of a path knows the best path through it (m1..m6, by number of edges), and these are different paths: the
-- max_rows-th best of them is a score that is reached (kept). What cannot reach it even over the largest |F| there is
-- leaves the next step: 132,370 edges into one target took 1 s among 84M instead of 4. The few edges left are joined.
-- Try: FROM strongest_paths([0, 1, 2], [22, 23], hops := 2, max_rows := 5)
CREATE OR REPLACE MACRO strongest_paths(
    of_sources, of_targets, hops := 5, at_least_count := 1, of_score := 'product', max_rows := 10
) AS TABLE
WITH s AS MATERIALIZED (
    SELECT DISTINCT unnest(of_sources)::INTEGER AS id
), t AS MATERIALIZED (
    SELECT DISTINCT unnest(of_targets)::INTEGER AS id
), most AS MATERIALIZED ( -- w: the largest mean |F| cannot exceed the largest |F|; answered from statistics, no scan
    SELECT of_score = 'bottleneck' AS narrow, CASE WHEN of_score = 'bottleneck' THEN 1 ELSE w END AS w,
        CASE WHEN of_score = 'bottleneck' THEN 1 ELSE greatest(1, w) END AS longer
    FROM (SELECT coalesce(greatest(max(weight_max), -min(weight_min))::DOUBLE * (1 + 1e-6), 1e30) AS w FROM edges)
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
), kept2 AS MATERIALIZED (
    SELECT CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END AS kept
    FROM (SELECT score FROM (SELECT score FROM m1 UNION ALL SELECT score FROM m2) ORDER BY score DESC LIMIT max_rows)
), m3 AS MATERIALIZED (
    SELECT e.src, e.tgt, CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) * b END AS score
    FROM edges AS e JOIN f1 ON e.src = f1.id JOIN b1 ON e.tgt = b1.id, most
    WHERE hops >= 3 AND e.count >= at_least_count AND e.weight_abs_sum > 0 AND score >= (SELECT kept FROM kept2)
), kept3 AS MATERIALIZED (
    SELECT greatest((SELECT kept FROM kept2), CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END) AS kept
    FROM (SELECT score FROM (SELECT score FROM m1 UNION ALL SELECT score FROM m2 UNION ALL SELECT score FROM m3)
        ORDER BY score DESC LIMIT max_rows)
), f2 AS MATERIALIZED ( -- at least two more edges follow: f * w * b1
    SELECT e.tgt AS id, max(CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) END) AS f
    FROM edges AS e JOIN (
        SELECT id, f, narrow, kept / after AS enough
        FROM f1, (SELECT narrow, w, kept, CASE WHEN narrow THEN 1
            ELSE (SELECT max(b) FROM b1) * w * longer ** (hops - 4) END AS after FROM most, kept3)
        WHERE hops >= 4 AND f * w * after >= kept
    ) AS p ON e.src = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
            ELSE f * (e.weight_abs_sum::DOUBLE / e.count) END >= enough
    GROUP BY e.tgt
), b2 AS MATERIALIZED ( -- at least two edges come before: f2 * b
    SELECT e.src AS id, max(CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE (e.weight_abs_sum::DOUBLE / e.count) * b END) AS b
    FROM edges AS e JOIN (
        SELECT id, b, narrow, kept / before AS enough
        FROM b1, (SELECT narrow, w, kept, CASE WHEN narrow THEN 1
            ELSE (SELECT max(f) FROM f2) * longer ** (hops - 4) END AS before FROM most, kept3)
        WHERE hops >= 4 AND b * w * before >= kept
    ) AS p ON e.tgt = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
            ELSE (e.weight_abs_sum::DOUBLE / e.count) * b END >= enough
    GROUP BY e.src
), m4 AS MATERIALIZED (
    SELECT f2.id, CASE WHEN narrow THEN least(f, b) ELSE f * b END AS score
    FROM f2 JOIN b2 USING (id), most WHERE score >= (SELECT kept FROM kept3)
), kept4 AS MATERIALIZED (
    SELECT greatest((SELECT kept FROM kept3), CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END) AS kept
    FROM (SELECT score FROM (SELECT score FROM m1 UNION ALL SELECT score FROM m2 UNION ALL SELECT score FROM m3
        UNION ALL SELECT score FROM m4) ORDER BY score DESC LIMIT max_rows)
), m5 AS MATERIALIZED (
    SELECT e.src, e.tgt, CASE WHEN p.narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) * b END AS score
    FROM edges AS e JOIN (
        SELECT id, f, narrow, kept FROM f2, most, kept4
        WHERE hops >= 5 AND CASE WHEN narrow THEN f ELSE f * w * (SELECT max(b) FROM b2) END >= kept
    ) AS p ON e.src = p.id JOIN (
        SELECT id, b FROM b2, most, kept4
        WHERE hops >= 5 AND CASE WHEN narrow THEN b ELSE b * w * (SELECT max(f) FROM f2) END >= kept
    ) AS q ON e.tgt = q.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0 AND score >= kept
), kept5 AS MATERIALIZED (
    SELECT greatest((SELECT kept FROM kept4), CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END) AS kept
    FROM (SELECT score FROM (SELECT score FROM m1 UNION ALL SELECT score FROM m2 UNION ALL SELECT score FROM m3
        UNION ALL SELECT score FROM m4 UNION ALL SELECT score FROM m5) ORDER BY score DESC LIMIT max_rows)
), f3 AS MATERIALIZED ( -- one more edge and b2 follow
    SELECT e.tgt AS id, max(CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
        ELSE f * (e.weight_abs_sum::DOUBLE / e.count) END) AS f
    FROM edges AS e JOIN (
        SELECT id, f, narrow, kept / after AS enough
        FROM f2, (SELECT narrow, w, kept, CASE WHEN narrow THEN 1 ELSE (SELECT max(b) FROM b2) * w END AS after
            FROM most, kept5)
        WHERE hops >= 6 AND f * w * after >= kept
    ) AS p ON e.src = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
        AND CASE WHEN narrow THEN least(f, e.weight_abs_sum::DOUBLE / e.count)
            ELSE f * (e.weight_abs_sum::DOUBLE / e.count) END >= enough
    GROUP BY e.tgt
), b3 AS MATERIALIZED (
    SELECT e.src AS id, max(CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
        ELSE (e.weight_abs_sum::DOUBLE / e.count) * b END) AS b
    FROM edges AS e JOIN (
        SELECT id, b, narrow, kept / before AS enough
        FROM b2, (SELECT narrow, w, kept, CASE WHEN narrow THEN 1 ELSE (SELECT max(f) FROM f3) END AS before
            FROM most, kept5)
        WHERE hops >= 6 AND b * w * before >= kept
    ) AS p ON e.tgt = p.id
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0 AND e.src IN (SELECT id FROM f3)
        AND CASE WHEN narrow THEN least(e.weight_abs_sum::DOUBLE / e.count, b)
            ELSE (e.weight_abs_sum::DOUBLE / e.count) * b END >= enough
    GROUP BY e.src
), m6 AS MATERIALIZED (
    SELECT f3.id, CASE WHEN narrow THEN least(f, b) ELSE f * b END AS score
    FROM f3 JOIN b3 USING (id), most WHERE score >= (SELECT kept FROM kept5)
), kept6 AS MATERIALIZED (
    SELECT greatest((SELECT kept FROM kept5), CASE WHEN count(*) >= max_rows THEN min(score) * (1 - 1e-9) ELSE 0 END) AS kept
    FROM (SELECT score FROM (SELECT score FROM m1 UNION ALL SELECT score FROM m2 UNION ALL SELECT score FROM m3
        UNION ALL SELECT score FROM m4 UNION ALL SELECT score FROM m5 UNION ALL SELECT score FROM m6)
        ORDER BY score DESC LIMIT max_rows)
), before3 AS MATERIALIZED (
    SELECT i.src, i.tgt FROM edges_in AS i
    SEMI JOIN (FROM m6, kept6 WHERE score >= kept) AS m ON i.tgt = m.id SEMI JOIN f2 ON i.src = f2.id
), before2 AS MATERIALIZED (
    SELECT i.src, i.tgt FROM edges_in AS i SEMI JOIN (
        SELECT id FROM m4, kept6 WHERE score >= kept UNION SELECT src FROM m5, kept6 WHERE score >= kept
        UNION SELECT src FROM before3
    ) AS m ON i.tgt = m.id SEMI JOIN f1 ON i.src = f1.id
), before1 AS MATERIALIZED (
    SELECT i.src, i.tgt FROM edges_in AS i SEMI JOIN (
        SELECT id FROM m2, kept6 WHERE score >= kept UNION SELECT src FROM m3, kept6 WHERE score >= kept
        UNION SELECT src FROM before2
    ) AS m ON i.tgt = m.id SEMI JOIN s ON i.src = s.id
), after3 AS MATERIALIZED (
    SELECT e.src, e.tgt FROM edges AS e
    SEMI JOIN (FROM m6, kept6 WHERE score >= kept) AS m ON e.src = m.id SEMI JOIN b2 ON e.tgt = b2.id
), after2 AS MATERIALIZED (
    SELECT e.src, e.tgt FROM edges AS e SEMI JOIN (
        SELECT id FROM m4, kept6 WHERE score >= kept UNION SELECT tgt FROM m5, kept6 WHERE score >= kept
        UNION SELECT tgt FROM after3
    ) AS m ON e.src = m.id SEMI JOIN b1 ON e.tgt = b1.id
), after1 AS MATERIALIZED (
    SELECT e.src, e.tgt FROM edges AS e SEMI JOIN (
        SELECT id FROM m2, kept6 WHERE score >= kept UNION SELECT tgt FROM m3, kept6 WHERE score >= kept
        UNION SELECT tgt FROM after2
    ) AS m ON e.src = m.id SEMI JOIN t ON e.tgt = t.id
), steps AS MATERIALIZED (
    SELECT e.src, e.tgt, e.count, e.weight_abs_sum::DOUBLE / e.count AS size, e.weight_sum::DOUBLE / e.count AS mean
    FROM edges AS e JOIN (
        SELECT src, tgt FROM m1, kept6 WHERE score >= kept
        UNION SELECT src, tgt FROM m3, kept6 WHERE score >= kept
        UNION SELECT src, tgt FROM m5, kept6 WHERE score >= kept
        UNION FROM before3 UNION FROM before2 UNION FROM before1 UNION FROM after3 UNION FROM after2 UNION FROM after1
    ) AS p ON e.src = p.src AND e.tgt = p.tgt
    WHERE e.count >= at_least_count AND e.weight_abs_sum > 0
), p1 AS MATERIALIZED (
    SELECT tgt AS id, size AS score, size AS product, [src, tgt] AS path, [mean] AS weights, [count] AS counts
    FROM steps SEMI JOIN s ON steps.src = s.id
    WHERE CASE WHEN src = tgt THEN error('cycle: a path could visit a neuron twice') ELSE true END
    QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY size DESC, src) <= max_rows
), p2 AS MATERIALIZED (
    SELECT tgt AS id, CASE WHEN narrow THEN least(score, size) ELSE score * size END AS score, product * size AS product,
        list_append(path, tgt) AS path, list_append(weights, mean) AS weights, list_append(counts, count) AS counts
    FROM p1 JOIN steps ON p1.id = steps.src, most
    WHERE hops >= 2 AND CASE WHEN list_contains(p1.path, tgt) THEN error('cycle: a path could visit a neuron twice') ELSE true END
    QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY CASE WHEN narrow THEN least(score, size) ELSE score * size END DESC,
        product * size DESC, list_append(path, tgt)) <= max_rows
), p3 AS MATERIALIZED (
    SELECT tgt AS id, CASE WHEN narrow THEN least(score, size) ELSE score * size END AS score, product * size AS product,
        list_append(path, tgt) AS path, list_append(weights, mean) AS weights, list_append(counts, count) AS counts
    FROM p2 JOIN steps ON p2.id = steps.src, most
    WHERE hops >= 3 AND CASE WHEN list_contains(p2.path, tgt) THEN error('cycle: a path could visit a neuron twice') ELSE true END
    QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY CASE WHEN narrow THEN least(score, size) ELSE score * size END DESC,
        product * size DESC, list_append(path, tgt)) <= max_rows
), p4 AS MATERIALIZED (
    SELECT tgt AS id, CASE WHEN narrow THEN least(score, size) ELSE score * size END AS score, product * size AS product,
        list_append(path, tgt) AS path, list_append(weights, mean) AS weights, list_append(counts, count) AS counts
    FROM p3 JOIN steps ON p3.id = steps.src, most
    WHERE hops >= 4 AND CASE WHEN list_contains(p3.path, tgt) THEN error('cycle: a path could visit a neuron twice') ELSE true END
    QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY CASE WHEN narrow THEN least(score, size) ELSE score * size END DESC,
        product * size DESC, list_append(path, tgt)) <= max_rows
), p5 AS MATERIALIZED (
    SELECT tgt AS id, CASE WHEN narrow THEN least(score, size) ELSE score * size END AS score, product * size AS product,
        list_append(path, tgt) AS path, list_append(weights, mean) AS weights, list_append(counts, count) AS counts
    FROM p4 JOIN steps ON p4.id = steps.src, most
    WHERE hops >= 5 AND CASE WHEN list_contains(p4.path, tgt) THEN error('cycle: a path could visit a neuron twice') ELSE true END
    QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY CASE WHEN narrow THEN least(score, size) ELSE score * size END DESC,
        product * size DESC, list_append(path, tgt)) <= max_rows
), p6 AS MATERIALIZED (
    SELECT tgt AS id, CASE WHEN narrow THEN least(score, size) ELSE score * size END AS score, product * size AS product,
        list_append(path, tgt) AS path, list_append(weights, mean) AS weights, list_append(counts, count) AS counts
    FROM p5 JOIN steps ON p5.id = steps.src, most
    WHERE hops >= 6 AND CASE WHEN list_contains(p5.path, tgt) THEN error('cycle: a path could visit a neuron twice') ELSE true END
    QUALIFY row_number() OVER (PARTITION BY tgt ORDER BY CASE WHEN narrow THEN least(score, size) ELSE score * size END DESC,
        product * size DESC, list_append(path, tgt)) <= max_rows
), best AS MATERIALIZED (
    SELECT row_number() OVER (ORDER BY score DESC, product DESC, path) AS rank, score, product, path, weights, counts
    FROM (FROM p1 UNION ALL FROM p2 UNION ALL FROM p3 UNION ALL FROM p4 UNION ALL FROM p5 UNION ALL FROM p6) AS p
    SEMI JOIN t ON p.id = t.id
    WHERE CASE WHEN hops BETWEEN 1 AND 6 THEN true ELSE error('strongest_paths goes 1 to 6 hops') END
    QUALIFY rank <= max_rows
), named AS (
    SELECT b.rank, list('L' || n.layer || '/N' || n.neuron ORDER BY b.place) AS neurons, list(n.label ORDER BY b.place) AS labels
    FROM (SELECT rank, unnest(path) AS id, generate_subscripts(path, 1) AS place FROM best) AS b
    LEFT JOIN neurons AS n ON n.feature_id = b.id
    GROUP BY b.rank
)
SELECT
    b.rank, b.score, CASE WHEN list_contains(b.weights, 0) THEN 0 WHEN len(list_filter(b.weights, lambda x: x < 0)) % 2 = 1 THEN -1 ELSE 1 END AS sign,
    len(b.weights) AS n_edges, b.product ** (1.0 / len(b.weights)) AS geometric_mean,
    n.neurons, n.labels, b.weights, b.counts, b.path
FROM best AS b JOIN named AS n USING (rank)
ORDER BY b.rank;
