-- Reverse activation: the tokens that fire a set of neurons strongly.
-- of_ids: packed ids (layer * d_mlp + neuron). of_polarity: 1 or -1. max_rows: limit; NULL for all.
-- n = strong firings on the token, summed over the neurons (a position that fires two of them counts twice);
-- n_neurons = neurons it fires; share = n / all strong firings of the set; lift = share / the token's share of the
-- corpus; mean and peak (farthest from 0) of the activation. Ordered by share * log2(1 + lift).
-- Try: FROM tokens_of([0, 1], of_polarity := -1, max_rows := 5)
CREATE OR REPLACE MACRO tokens_of(of_ids, of_polarity := 1, max_rows := 20) AS TABLE
WITH chosen AS (
    SELECT layer, neuron FROM neurons WHERE feature_id IN (SELECT unnest(of_ids)::BIGINT)
), corpus AS (
    SELECT sum("count") AS total FROM vocab
), fired AS (
    SELECT sum(CASE WHEN of_polarity > 0 THEN n_fired_pos ELSE n_fired_neg END) AS firings
    FROM neuron_stats SEMI JOIN chosen USING (layer, neuron)
), counted AS (
    SELECT
        token_id, sum(n)::BIGINT AS n, count(*) AS n_neurons, sum("sum") / sum(n) AS mean,
        CASE WHEN of_polarity > 0 THEN max("max") ELSE min("min") END AS peak
    FROM token_stats SEMI JOIN chosen USING (layer, neuron)
    WHERE polarity = of_polarity
    GROUP BY token_id
)
SELECT
    t.token_id, v.token, t.n, t.n_neurons, t.n / nullif(f.firings, 0) AS share, t.mean, t.peak,
    t.n / nullif(f.firings, 0) * x.total / nullif(v."count", 0) AS lift
FROM counted AS t
LEFT JOIN vocab AS v ON v.token_id = t.token_id
CROSS JOIN fired AS f
CROSS JOIN corpus AS x
ORDER BY share * log2(1 + lift) DESC NULLS LAST, t.n DESC, t.token_id
LIMIT max_rows;
