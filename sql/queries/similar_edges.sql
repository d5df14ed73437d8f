-- The neurons whose edges resemble those of a neuron or a set of neurons the most.
-- of_ids: packed ids; the profile of several is their sum. of_side: 'out' (what it feeds), 'in' (what feeds it) or 'both'.
-- first_layer, last_layer: only neurons of these layers; NULL for any. max_rows: limit; NULL for all that share a partner.
-- A profile holds weight_sum (signed: the flow over all observations) for each partner. cosine: of the two profiles.
-- jaccard: shared partners / partners of either. shared: how many; strongest: the three shared partners with the largest
-- |product of weights|. n_edges: partners of the neuron. Ordered by the cosine; opposite neurons have negative ones.
-- Exact without reading every profile. By 'in' the edges out of the shared sources are all that counts, for edge_totals has
-- the length of every profile. By 'out' and 'both', for a neuron y that shares partners with x, Cauchy and Schwarz give
-- |x.y| <= |x over the shared targets| |y out| + |x.y over the shared sources|, and this bound needs no weight of an edge
-- out of y. The 300 neurons with the largest bounds are computed first (by 'out' all, where they are at most 2,000: one
-- pass over the edges); then all whose bound reaches the smallest cosine that would still be shown. Cosines are rounded to
-- 12 digits, so threads change no order.
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
), met AS MATERIALIZED (  -- products over the shared sources
    SELECT e.tgt AS id, e.src AS partner, f.w * e.weight_sum AS product
    FROM edges AS e JOIN fields AS f ON f.partner = e.src AND f.side = 'in'
    WHERE of_side <> 'out'
), bounds AS MATERIALIZED (
    SELECT
        c.id, sqrt(CASE WHEN of_side <> 'in' THEN t.norm_out ** 2 ELSE 0 END
            + CASE WHEN of_side <> 'out' THEN t.norm_in ** 2 ELSE 0 END) AS y,
        CASE WHEN of_side <> 'in' THEN t.n_out ELSE 0 END + CASE WHEN of_side <> 'out' THEN t.n_in ELSE 0 END AS n_edges,
        (c.along + sqrt(c.squares) * t.norm_out) / nullif(y * (SELECT x FROM norm), 0) + 1e-9 AS most
    FROM (
        SELECT id, sum(along) AS along, sum(squares) AS squares
        FROM (
            SELECT id, product AS along, 0 AS squares FROM met
            UNION ALL
            SELECT i.src, 0, f.w * f.w FROM edges_in AS i JOIN fields AS f ON f.partner = i.tgt AND f.side = 'out'
            WHERE of_side <> 'in'
        )
        GROUP BY id
    ) AS c
    JOIN edge_totals AS t ON t.id = c.id
    WHERE c.id >= (SELECT low FROM region) AND c.id <= (SELECT high FROM region) AND c.id NOT IN (FROM chosen)
), early AS MATERIALIZED (
    SELECT id FROM bounds ORDER BY most DESC NULLS LAST, id
    LIMIT (SELECT CASE WHEN of_side = 'in' THEN 0 WHEN of_side = 'out' AND count(*) <= 2000 THEN 2000 ELSE 300 END FROM bounds)
), early_products AS MATERIALIZED (
    SELECT e.src AS id, e.tgt AS partner, f.w * e.weight_sum AS product
    FROM edges AS e JOIN fields AS f ON f.partner = e.tgt AND f.side = 'out'
    WHERE of_side <> 'in' AND e.src IN (FROM early)
), enough AS MATERIALIZED (  -- the smallest cosine that is still shown if no other neuron is better
    SELECT CASE WHEN count(*) = max_rows THEN min(c) END AS c
    FROM (
        SELECT sum(p.product) / nullif(any_value(b.y) * (SELECT x FROM norm), 0) AS c
        FROM (FROM early_products UNION ALL (FROM met WHERE id IN (FROM early))) AS p JOIN bounds AS b ON b.id = p.id
        GROUP BY p.id ORDER BY c DESC NULLS LAST LIMIT max_rows
    )
), late AS MATERIALIZED (
    SELECT b.id FROM bounds AS b, enough AS t
    WHERE of_side <> 'in' AND (t.c IS NULL OR b.most >= t.c - 1e-9) AND b.id NOT IN (FROM early)
), products AS MATERIALIZED (
    FROM early_products
    UNION ALL (
        SELECT e.src AS id, e.tgt AS partner, f.w * e.weight_sum AS product
        FROM edges AS e JOIN fields AS f ON f.partner = e.tgt AND f.side = 'out'
        WHERE of_side <> 'in' AND e.src IN (FROM late))
    UNION ALL (FROM met WHERE of_side = 'in' OR id IN (FROM early) OR id IN (FROM late))
), best AS MATERIALIZED (
    SELECT b.id, b.n_edges, s.shared, round(s.along / nullif(b.y * (SELECT x FROM norm), 0), 12) AS cosine
    FROM (SELECT id, sum(product) AS along, count(*) AS shared FROM products GROUP BY id) AS s
    JOIN bounds AS b ON b.id = s.id
    ORDER BY cosine DESC NULLS LAST, b.id
    LIMIT max_rows
), strongest AS (
    SELECT id, unnest(list) AS partner, unnest(range(len(list))) AS place
    FROM (
        SELECT id, arg_max(partner, (abs(product), -partner), 3) AS list
        FROM products WHERE id IN (SELECT id FROM best) GROUP BY id
    )
), about AS MATERIALIZED (  -- labels of all that is shown, looked up once
    SELECT feature_id AS id, layer, neuron, label, cluster_path FROM neurons
    WHERE feature_id IN (SELECT id FROM best UNION SELECT partner FROM strongest)
), named AS (
    SELECT s.id, list('L' || p.layer || '/N' || p.neuron || coalesce(' ' || p.label, '') ORDER BY s.place) AS names
    FROM strongest AS s JOIN about AS p ON p.id = s.partner
    GROUP BY s.id
)
SELECT
    n.layer, n.neuron, n.label, n.cluster_path, b.cosine, b.shared / (b.n_edges + (SELECT n FROM norm) - b.shared) AS jaccard,
    b.shared, names.names AS strongest, b.n_edges, b.id
FROM best AS b
LEFT JOIN named AS names ON names.id = b.id
LEFT JOIN about AS n ON n.id = b.id
ORDER BY b.cosine DESC NULLS LAST, b.id;
