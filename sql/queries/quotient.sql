-- Modules as nodes: what each module of a level sends to each other one and to itself, against what chance would send.
-- of_level: 1 = top modules, 2 = their parts ...; a neuron whose path is shorter counts for its own module.
-- with_inside: false leaves out what stays inside a module. max_rows: limit; NULL for all.
-- weight = sum of mean |F| over the edges (the unit of clusters.internal_weight), signed_weight = sum of mean F.
-- A path is NULL for the neurons outside every module.
-- Null: within each pair (layer of the source, layer of the target) the two ends of an edge are independent; what each
-- module sends and receives there is kept. With A, B, W the weight sent by module i, received by j, and all of a pair:
-- expected = sum over layer pairs of A B / W. The edges are the units; their squared weights A2, B2, W2 (p = A / W,
-- q = B / W) give weight - expected = sum of w ([i] - p) ([j] - q) the variance
-- (A2 (1 - 2 p) + p^2 W2) (B2 (1 - 2 q) + q^2 W2) / W2 * W^2 / (W^2 - W2): hypergeometric where all weights are equal.
-- z = (weight - expected) / its root; NULL where nothing can vary. A module of a few hub neurons reaches a large |z|.
-- Only the rows shown get expected and z: all pairs of 1,600 modules take the matrix of the library (a.quotient().matrix).
-- Weights are summed as whole numbers of 2^-44, squares of 2^-60, so nothing depends on threads. Ordered by weight.
-- Try: FROM quotient(of_level := 1, max_rows := 5)
CREATE OR REPLACE MACRO quotient(of_level := 1, with_inside := true, max_rows := 50) AS TABLE
WITH paths AS MATERIALIZED (
    SELECT path, row_number() OVER (ORDER BY path NULLS LAST)::INTEGER AS k
    FROM (SELECT DISTINCT array_to_string(string_split(cluster_path, '.')[1:of_level], '.') AS path FROM neurons)
), places AS MATERIALIZED (
    SELECT n.feature_id::INTEGER AS id, p.k
    FROM neurons AS n
    JOIN paths AS p ON p.path IS NOT DISTINCT FROM array_to_string(string_split(n.cluster_path, '.')[1:of_level], '.')
), pairs AS (
    SELECT s.k AS i, t.k AS j, count(*) AS n_edges, sum(e.count)::BIGINT AS observations,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS weight,
        sum(round(e.weight_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS signed_weight
    FROM edges AS e JOIN places AS s ON s.id = e.src JOIN places AS t ON t.id = e.tgt
    GROUP BY s.k, t.k
), chosen AS MATERIALIZED (
    SELECT * FROM pairs WHERE with_inside OR i <> j ORDER BY weight DESC, i, j LIMIT max_rows
), blocks AS (
    SELECT src_layer AS l, tgt_layer AS m,
        sum(round(weight_abs_sum::DOUBLE / count * 17592186044416)::HUGEINT) / 17592186044416 AS w,
        sum(round((weight_abs_sum::DOUBLE / count) ** 2 * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS w2
    FROM edges GROUP BY src_layer, tgt_layer
), sent AS (
    SELECT s.k AS i, e.src_layer AS l, e.tgt_layer AS m,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS w,
        sum(round((e.weight_abs_sum::DOUBLE / e.count) ** 2 * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS w2
    FROM edges AS e JOIN (SELECT * FROM places WHERE k IN (SELECT i FROM chosen)) AS s ON s.id = e.src
    GROUP BY s.k, e.src_layer, e.tgt_layer
), received AS (
    SELECT t.k AS j, e.src_layer AS l, e.tgt_layer AS m,
        sum(round(e.weight_abs_sum::DOUBLE / e.count * 17592186044416)::HUGEINT) / 17592186044416 AS w,
        sum(round((e.weight_abs_sum::DOUBLE / e.count) ** 2 * 1152921504606846976)::HUGEINT) / 1152921504606846976 AS w2
    FROM edges AS e JOIN (SELECT * FROM places WHERE k IN (SELECT j FROM chosen)) AS t ON t.id = e.tgt
    GROUP BY t.k, e.src_layer, e.tgt_layer
), terms AS (
    SELECT c.i, c.j, a.l, a.m, a.w * b.w / x.w AS expected,
        (a.w2 * (1 - 2 * a.w / x.w) + (a.w / x.w) ** 2 * x.w2) * (b.w2 * (1 - 2 * b.w / x.w) + (b.w / x.w) ** 2 * x.w2)
            / x.w2 * x.w ** 2 / nullif(greatest(x.w ** 2 - x.w2, 0), 0) AS variance
    FROM chosen AS c
    JOIN sent AS a ON a.i = c.i
    JOIN received AS b ON b.j = c.j AND b.l = a.l AND b.m = a.m
    JOIN blocks AS x ON x.l = a.l AND x.m = a.m
    WHERE x.w > 0 AND x.w2 > 0
), chance AS (
    SELECT i, j, sum(expected ORDER BY l, m) AS expected, coalesce(sum(variance ORDER BY l, m), 0) AS variance
    FROM terms GROUP BY i, j
)
SELECT
    s.path AS src_cluster, a.label AS src_label, t.path AS tgt_cluster, b.label AS tgt_label, c.n_edges, c.observations,
    c.weight, c.signed_weight, x.expected, c.weight / nullif(x.expected, 0) AS ratio,
    CASE WHEN x.variance > 1e-12 * x.expected ** 2 THEN (c.weight - x.expected) / sqrt(x.variance) END AS z
FROM chosen AS c
JOIN paths AS s ON s.k = c.i
JOIN paths AS t ON t.k = c.j
LEFT JOIN chance AS x ON x.i = c.i AND x.j = c.j
LEFT JOIN clusters AS a ON a.cluster_path = s.path
LEFT JOIN clusters AS b ON b.cluster_path = t.path
ORDER BY c.weight DESC, c.i, c.j;
