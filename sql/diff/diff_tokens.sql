-- Neurons by how differently tokens fire them strongly in atlas a and atlas b.
-- Both files are attached, as a and b:  ATTACH 'A.duckdb' AS a (READ_ONLY); ATTACH 'B.duckdb' AS b (READ_ONLY);
-- of_first_layer, of_last_layer: layers; NULL for all. A range at a time keeps the join small: 100 bytes a row of
-- token_stats. everything: also neurons with the same numbers in both. max_rows: limit; NULL for all.
-- A token counts by its sign of firing. cosine = of the numbers of firings by token; jaccard = tokens in both / in either
-- (as token_stats keeps them). gained, lost: up to 5 tokens that only b or only a has, most firings first. Sides that
-- never fire a neuron: cosine and jaccard 0. max_change = max_activation_b - max_activation_a.
-- Ordered by cosine, least first, then by neuron.
-- Try: FROM diff_tokens(everything := true, max_rows := 5)
CREATE OR REPLACE MACRO diff_tokens(
    of_first_layer := NULL, of_last_layer := NULL, everything := false, max_rows := NULL
) AS TABLE
WITH both_sides AS (
    SELECT
        layer, neuron, polarity, token_id, x.n AS na, y.n AS nb,
        (coalesce(x.n, y.n) * 4194304 - token_id) * 2 + (polarity > 0)::INTEGER AS place
    FROM (SELECT * FROM a.token_stats
          WHERE layer BETWEEN coalesce(of_first_layer, 0) AND coalesce(of_last_layer, 255)) AS x
    FULL JOIN (SELECT * FROM b.token_stats
               WHERE layer BETWEEN coalesce(of_first_layer, 0) AND coalesce(of_last_layer, 255)) AS y
        USING (layer, neuron, polarity, token_id)
), by_neuron AS (
    SELECT
        layer, neuron, count(na) AS tokens_a, count(nb) AS tokens_b, count(na + nb) AS tokens_shared, count(*) AS n_tokens,
        sum(na::HUGEINT * nb)::DOUBLE AS dot, sqrt(sum(na::HUGEINT * na)::DOUBLE) AS norm_a,
        sqrt(sum(nb::HUGEINT * nb)::DOUBLE) AS norm_b, count(*) FILTER (na IS DISTINCT FROM nb) AS n_different,
        arg_max(coalesce(v.token, w.token, token_id::VARCHAR), place, 5) FILTER (na IS NULL) AS gained,
        arg_max(coalesce(v.token, w.token, token_id::VARCHAR), place, 5) FILTER (nb IS NULL) AS lost
    FROM both_sides LEFT JOIN a.vocab AS v USING (token_id) LEFT JOIN b.vocab AS w USING (token_id)
    GROUP BY layer, neuron
)
SELECT
    f.layer, f.neuron, x.label AS label_a, y.label AS label_b,
    least(coalesce(f.dot / (f.norm_a * f.norm_b), 0), 1) AS cosine, f.tokens_shared / f.n_tokens AS jaccard,
    f.tokens_a, f.tokens_b, f.gained, f.lost, x.max_activation AS max_activation_a, y.max_activation AS max_activation_b,
    y.max_activation - x.max_activation AS max_change
FROM by_neuron AS f
LEFT JOIN a.neurons AS x ON x.layer = f.layer AND x.neuron = f.neuron
LEFT JOIN b.neurons AS y ON y.layer = f.layer AND y.neuron = f.neuron
WHERE everything OR f.n_different > 0 OR x.max_activation IS DISTINCT FROM y.max_activation
ORDER BY cosine, f.layer, f.neuron
LIMIT max_rows;
