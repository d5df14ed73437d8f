-- What fires one neuron strongly, both signs: the best max_rows tokens of each sign.
-- of_layer, of_neuron: the neuron. max_rows: tokens of each sign; NULL for all.
-- n = strong firings on the token; share = n / all strong firings of that sign; lift = share / the token's share of
-- the corpus; peak = the activation farthest from 0; expected = sum of |activation| over strong firings / occurrences of the token.
-- Ordered by expected, positive sign first.
-- Try: FROM neuron_top_tokens(1, 2, max_rows := 3)
CREATE OR REPLACE MACRO neuron_top_tokens(of_layer, of_neuron, max_rows := 10) AS TABLE
WITH fired AS (
    SELECT n_fired_pos, n_fired_neg FROM neuron_stats WHERE layer = of_layer AND neuron = of_neuron
), corpus AS (
    SELECT sum("count") AS total FROM vocab
), counted AS (
    SELECT
        t.polarity, t.token_id, v.token, t.n,
        t.n / nullif(CASE WHEN t.polarity > 0 THEN f.n_fired_pos ELSE f.n_fired_neg END, 0) AS share,
        t.sum / t.n AS mean, CASE WHEN t.polarity > 0 THEN t.max ELSE t.min END AS peak,
        v."count" / nullif(c.total, 0) AS common, abs(t.sum) / nullif(v."count", 0) AS expected
    FROM token_stats AS t
    LEFT JOIN vocab AS v ON v.token_id = t.token_id
    LEFT JOIN fired AS f ON true
    CROSS JOIN corpus AS c
    WHERE t.layer = of_layer AND t.neuron = of_neuron
)
SELECT polarity, token_id, token, n, share, mean, peak, share / nullif(common, 0) AS lift, expected
FROM counted
QUALIFY max_rows IS NULL OR row_number() OVER (
    PARTITION BY polarity ORDER BY expected DESC NULLS LAST, n DESC, token_id) <= max_rows
ORDER BY polarity DESC, expected DESC NULLS LAST, n DESC, token_id;
