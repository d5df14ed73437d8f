-- Paths given by their neurons -> score, signs and the evidence of every edge of each.
-- of_paths: lists of packed ids; a path with an edge that is not there has no row. of_score: 'product' of the mean |F|
-- of the edges, or 'bottleneck' = the smallest of them.
-- sign: of the product of the mean F. effect_sign: whether the path raises (1) or lowers (-1) the metric: a relp F already
-- has the sign of its effect, s -> t -> u is worth F(s, t) F(t, u) / R(t), R(t) = sum of all F into t (edges and
-- embeddings), so each neuron between the ends with R < 0 turns the sign; of other methods (metadata edge_method) = sign.
-- geometric_mean: of the mean |F|; weights, counts, n_graphs: mean F, observations and graphs of each edge in order;
-- neurons, labels, path: names, labels and packed ids along the path.
-- Ordered by score; equal scores by the product, then by path.
-- Try: FROM path_evidence([[0, 10, 23], [1, 10, 23]])
CREATE OR REPLACE MACRO path_evidence(of_paths, of_score := 'product') AS TABLE
WITH given AS (
    SELECT DISTINCT unnest(of_paths::INTEGER[][]) AS path
), steps AS (
    SELECT path, unnest(path[:-2]) AS src, unnest(path[2:]) AS tgt, unnest(range(1, len(path))) AS place FROM given
), weighed AS (
    SELECT s.path, list(e.mean_weight ORDER BY place) AS weights, list(e.count ORDER BY place) AS counts,
        list(e.n_graphs ORDER BY place) AS n_graphs, list(e.weight_abs_sum::DOUBLE / e.count ORDER BY place) AS sizes
    FROM steps AS s JOIN edges AS e ON e.src = s.src AND e.tgt = s.tgt
    GROUP BY s.path
), named AS (
    SELECT p.path, list('L' || n.layer || '/N' || n.neuron ORDER BY p.place) AS neurons, list(n.label ORDER BY p.place) AS labels
    FROM (SELECT path, unnest(path) AS id, generate_subscripts(path, 1) AS place FROM given) AS p
    JOIN neurons AS n ON n.feature_id = p.id
    GROUP BY p.path
), middle AS MATERIALIZED (
    SELECT path, unnest(path[2:-2]) AS id FROM given
    WHERE (SELECT any_value(value) FROM metadata WHERE key = 'edge_method') LIKE 'relp%'
), inputs AS MATERIALIZED (
    SELECT i.src FROM edges_in AS i SEMI JOIN middle AS m ON i.tgt = m.id
), relevance AS (
    SELECT id, sum(round(f::DOUBLE * 1152921504606846976)::HUGEINT) AS net FROM (
        SELECT e.tgt AS id, e.weight_sum AS f
        FROM edges AS e SEMI JOIN middle AS m ON e.tgt = m.id WHERE e.src IN (SELECT src FROM inputs)
        UNION ALL
        SELECT n.feature_id, x.weight_sum
        FROM token_edges AS x JOIN (SELECT * FROM neurons SEMI JOIN middle ON feature_id = id) AS n USING (layer, neuron)
        WHERE x.kind = 'embedding'
    ) GROUP BY id
), turned AS (
    SELECT m.path, product(sign(r.net)) AS turn
    FROM middle AS m JOIN relevance AS r USING (id)
    GROUP BY m.path
), scored AS (
    SELECT *, list_reduce(sizes, lambda a, b: a * b) AS product FROM weighed WHERE len(sizes) = len(path) - 1
)
SELECT
    CASE WHEN of_score = 'bottleneck' THEN list_min(sizes) ELSE product END AS score,
    CASE WHEN list_min(list_transform(weights, lambda x: abs(x))) = 0 THEN 0
        WHEN len(list_filter(weights, lambda x: x < 0)) % 2 = 1 THEN -1 ELSE 1 END AS sign,
    (sign * coalesce(turn, 1))::INTEGER AS effect_sign, len(sizes) AS n_edges,
    product ** (1.0 / len(sizes)) AS geometric_mean,
    neurons, labels, weights, counts, n_graphs, path
FROM scored JOIN named USING (path) LEFT JOIN turned USING (path)
ORDER BY score DESC, product DESC, path;
