-- Feed-forward loops a -> b -> c with a -> c, the strongest first: coherent where the direct edge has the sign of the detour.
-- of_ids: packed ids of all three; NULL for loops among the strongest edges of the atlas (edges_top). at_least_count:
-- fewest observations of an edge. max_rows: limit; NULL for all. max_edges: strongest edges that are looked at.
-- direct, first, second: mean F of a -> c, a -> b, b -> c; strength: the cube root of the product of their sizes.
-- Ordered by strength, then by the three ids.
-- Try: FROM motif_triangles([0, 2, 10, 11, 22, 23])
CREATE OR REPLACE MACRO motif_triangles(of_ids, at_least_count := 1, max_rows := 20, max_edges := 20000) AS TABLE
WITH wanted AS MATERIALIZED (
    SELECT DISTINCT unnest(of_ids)::INTEGER AS id
), every AS (
    SELECT e.src, e.tgt, e.weight_abs_sum, e.mean_weight
    FROM edges AS e SEMI JOIN wanted AS s ON e.src = s.id SEMI JOIN wanted AS t ON e.tgt = t.id
    WHERE e.count >= at_least_count
    UNION ALL
    SELECT e.src, e.tgt, e.weight_abs_sum, e.mean_weight
    FROM edges AS e JOIN edges_top AS r ON e.src = r.src AND e.tgt = r.tgt
    WHERE of_ids IS NULL AND e.count >= at_least_count
), chosen AS MATERIALIZED (
    FROM every WHERE mean_weight <> 0 AND src <> tgt ORDER BY weight_abs_sum DESC, src, tgt LIMIT max_edges
), loops AS (
    SELECT x.src AS a, x.tgt AS b, y.tgt AS c, z.mean_weight AS direct, x.mean_weight AS first, y.mean_weight AS second,
        (abs(x.mean_weight::DOUBLE) * abs(y.mean_weight::DOUBLE) * abs(z.mean_weight::DOUBLE)) ** (1.0 / 3) AS strength
    FROM chosen AS x JOIN chosen AS y ON x.tgt = y.src JOIN chosen AS z ON z.src = x.src AND z.tgt = y.tgt
    ORDER BY strength DESC, a, b, c
    LIMIT max_rows
)
SELECT
    k.strength, i.layer AS src_layer, i.neuron AS src_neuron, i.label AS src_label,
    j.layer AS layer, j.neuron AS neuron, j.label, h.layer AS tgt_layer, h.neuron AS tgt_neuron, h.label AS tgt_label,
    sign(k.direct) = sign(k.first) * sign(k.second) AS coherent, k.direct, k.first, k.second, k.a, k.b, k.c
FROM loops AS k
JOIN neurons AS i ON i.feature_id = k.a JOIN neurons AS j ON j.feature_id = k.b JOIN neurons AS h ON h.feature_id = k.c
ORDER BY k.strength DESC, k.a, k.b, k.c;
