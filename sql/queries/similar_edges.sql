-- The neurons whose edges resemble those of a neuron or a set of neurons the most.
-- of_ids: packed ids; the profile of several is their sum. of_side: 'out' (what it feeds), 'in' (what feeds it) or 'both'.
-- first_layer, last_layer: only neurons of these layers; NULL for any. max_rows: limit; NULL for all that share a partner.
-- A profile holds weight_sum (signed: the flow over all observations) for each partner. cosine: of the two profiles.
-- jaccard: shared partners / partners of either. shared: how many; strongest: the three shared partners with the largest
-- |product of weights|. n_edges: partners of the neuron. Ordered by the cosine; opposite neurons have negative ones.
-- Exact without reading every profile: for a neuron y that shares partners with x, Cauchy and Schwarz give
-- cos(x, y) <= sqrt(|x over the shared targets|^2 + (x.y over the shared sources / |y over them|)^2) / |x|, and this bound
-- needs no weight of an edge out of y. The 300 neurons with the largest bounds are computed first (by 'out' all, where
-- they are at most 2,000: one pass over the edges); then all whose bound reaches the smallest cosine that would still be
-- shown. Cosines are rounded to 12 digits, so threads change no order.
-- Try: FROM similar_edges([10], of_side := 'in')
CREATE OR REPLACE MACRO similar_edges(
    of_ids, of_side := 'out', first_layer := NULL, last_layer := NULL, max_rows := 20
) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT DISTINCT unnest(of_ids)::INTEGER AS id
), fields AS MATERIALIZED (  -- x: one row per side and partner
    SELECT 'out' AS side, tgt AS partner, sum(weight_sum::DOUBLE ORDER BY src) AS w
    FROM edges WHERE of_side <> 'in' AND src IN (FROM chosen) GROUP BY tgt
    UNION ALL (SELECT 'in', src, sum(weight_sum::DOUBLE ORDER BY tgt)
        FROM edges WHERE of_side <> 'out' AND tgt IN (FROM chosen)
            AND src IN (SELECT unnest((SELECT list(src) FROM edges_in WHERE tgt IN (FROM chosen)))) GROUP BY src)
), norm AS MATERIALIZED (
    SELECT sqrt(sum(w * w ORDER BY side, partner)) AS x, count(*) AS n FROM fields
), region AS MATERIALIZED (
    SELECT min(feature_id)::INTEGER AS low, max(feature_id)::INTEGER AS high FROM neurons
    WHERE layer >= coalesce(first_layer, 0) AND layer <= coalesce(last_layer, 1000000)
), bounds AS MATERIALIZED (
    SELECT id, sqrt(sum(squares) + max(along)) / (SELECT x FROM norm) * (1 + 1e-9) AS most
    FROM (
        SELECT i.src AS id, sum(f.w * f.w) AS squares, 0 AS along
        FROM edges_in AS i JOIN fields AS f ON f.partner = i.tgt AND f.side = 'out'
        WHERE of_side <> 'in' GROUP BY i.src
        UNION ALL
        SELECT e.tgt, 0, greatest(sum(f.w * e.weight_sum), 0) ** 2 / nullif(sum(e.weight_sum::DOUBLE ** 2), 0)
        FROM edges AS e JOIN fields AS f ON f.partner = e.src AND f.side = 'in'
        WHERE of_side <> 'out' GROUP BY e.tgt
    )
    WHERE id >= (SELECT low FROM region) AND id <= (SELECT high FROM region) AND id NOT IN (FROM chosen)
    GROUP BY id
), early AS MATERIALIZED (
    SELECT id FROM bounds ORDER BY most DESC, id
    LIMIT (SELECT CASE WHEN of_side = 'out' AND count(*) <= 2000 THEN 2000 ELSE 300 END FROM bounds)
), early_edges AS (
    SELECT src AS id, 'out' AS side, tgt AS partner, weight_sum::DOUBLE AS w
    FROM edges WHERE of_side <> 'in' AND src IN (FROM early)
    UNION ALL (SELECT tgt, 'in', src, weight_sum FROM edges
        WHERE of_side <> 'out' AND tgt IN (FROM early)
            AND src IN (SELECT unnest((SELECT list(src) FROM edges_in WHERE tgt IN (FROM early)))))
), early_scores AS MATERIALIZED (
    SELECT
        e.id, sum(e.w * f.w) AS along, sum(e.w * e.w) AS squares, count(*) AS n_edges, count(f.w) AS shared,
        arg_max(f.partner, (abs(e.w * f.w), -f.partner), 3) FILTER (f.w IS NOT NULL) AS strongest
    FROM early_edges AS e LEFT JOIN fields AS f ON f.side = e.side AND f.partner = e.partner
    GROUP BY e.id
), enough AS MATERIALIZED (  -- the smallest cosine that is still shown if no other neuron is better
    SELECT CASE WHEN count(*) = max_rows THEN min(c) END AS c
    FROM (SELECT along / sqrt(squares) / (SELECT x FROM norm) AS c FROM early_scores ORDER BY 1 DESC LIMIT max_rows)
), late AS MATERIALIZED (
    SELECT b.id FROM bounds AS b, enough AS t
    WHERE (t.c IS NULL OR b.most >= t.c - 1e-9) AND b.id NOT IN (FROM early)
), late_edges AS (
    SELECT src AS id, 'out' AS side, tgt AS partner, weight_sum::DOUBLE AS w
    FROM edges WHERE of_side <> 'in' AND src IN (FROM late)
    UNION ALL (SELECT tgt, 'in', src, weight_sum FROM edges
        WHERE of_side <> 'out' AND tgt IN (FROM late)
            AND src IN (SELECT unnest((SELECT list(src) FROM edges_in WHERE tgt IN (FROM late)))))
), scores AS (
    FROM early_scores
    UNION ALL (SELECT
        e.id, sum(e.w * f.w), sum(e.w * e.w), count(*), count(f.w),
        arg_max(f.partner, (abs(e.w * f.w), -f.partner), 3) FILTER (f.w IS NOT NULL)
    FROM late_edges AS e LEFT JOIN fields AS f ON f.side = e.side AND f.partner = e.partner
    GROUP BY e.id)
), best AS MATERIALIZED (
    SELECT *, round(along / nullif(sqrt(squares) * (SELECT x FROM norm), 0), 12) AS cosine
    FROM scores ORDER BY cosine DESC NULLS LAST, id LIMIT max_rows
), named AS (
    SELECT s.id, list('L' || p.layer || '/N' || p.neuron || coalesce(' ' || p.label, '') ORDER BY s.place) AS names
    FROM (SELECT id, unnest(strongest) AS partner, unnest(range(len(strongest))) AS place FROM best) AS s
    JOIN neurons AS p ON p.feature_id = s.partner
    GROUP BY s.id
)
SELECT
    n.layer, n.neuron, n.label, n.cluster_path, b.cosine, b.shared / (b.n_edges + (SELECT n FROM norm) - b.shared) AS jaccard,
    b.shared, names.names AS strongest, b.n_edges, b.id
FROM best AS b
LEFT JOIN named AS names ON names.id = b.id
LEFT JOIN neurons AS n ON n.feature_id = b.id
ORDER BY b.cosine DESC NULLS LAST, b.id;
