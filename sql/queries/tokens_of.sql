-- Reverse activation: the tokens that fire a set of neurons strongly.
-- of_ids: packed ids (layer * d_mlp + neuron). of_polarity: 1, -1, or NULL for both (one row a
-- token and sign). max_rows: limit; NULL for all.
-- n = strong firings on the token, summed over the neurons (a position that fires two of them counts twice);
-- n_neurons = neurons it fires; share = n / all strong firings of the set with that sign; lift = share / the token's share of the
-- corpus; mean and peak (farthest from 0) of the activation. Ordered by share * log2(1 + lift).
-- Try: FROM tokens_of([0, 1], of_polarity := -1, max_rows := 5)
CREATE OR REPLACE MACRO tokens_of(of_ids, of_polarity := NULL, max_rows := 20) AS TABLE
WITH chosen AS (
    SELECT layer, neuron FROM neurons WHERE feature_id IN (SELECT unnest(of_ids)::BIGINT)
), corpus AS (
    SELECT sum("count") AS total FROM vocab
), fired AS (
    SELECT sum(n_fired_pos) AS pos, sum(n_fired_neg) AS neg FROM neuron_stats SEMI JOIN chosen USING (layer, neuron)
), counted AS (
    SELECT
        token_id, polarity, sum(n)::BIGINT AS n, count(*) AS n_neurons, sum("sum" ORDER BY layer, neuron) / sum(n) AS mean,
        CASE WHEN polarity > 0 THEN max("max") ELSE min("min") END AS peak
    FROM token_stats SEMI JOIN chosen USING (layer, neuron)
    WHERE of_polarity IS NULL OR polarity = of_polarity
    GROUP BY token_id, polarity
), shared AS (
    SELECT t.*, t.n / nullif(CASE WHEN t.polarity > 0 THEN f.pos ELSE f.neg END, 0) AS share
    FROM counted AS t CROSS JOIN fired AS f
)
SELECT
    t.token_id, v.token, t.polarity, t.n, t.n_neurons, t.share, t.mean, t.peak,
    t.share * x.total / nullif(v."count", 0) AS lift
FROM shared AS t
LEFT JOIN vocab AS v ON v.token_id = t.token_id
CROSS JOIN corpus AS x
ORDER BY t.share * log2(1 + lift) DESC NULLS LAST, t.n DESC, t.token_id, t.polarity DESC
LIMIT max_rows;
