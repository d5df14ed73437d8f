-- Tokens that fire a neuron strongly -> which are its triggers, for layers $first to $last and one neuron in $one_in.
-- A token is a trigger (good) when the neuron fires on at least 20% of its occurrences, 3 times as often as
-- chance, and with an expected strong activation per occurrence (|sum| / occurrences) of at least 10% of its peak.
-- share = part of the strong activation (sum of |a| over firings), in 2^-40, so that sums do not depend on their order.
WITH corpus AS (
    SELECT sum(count)::DOUBLE AS total FROM vocab
), signs AS (
    SELECT layer, neuron, 1 AS polarity, n_fired_pos AS fired, max AS peak FROM neuron_stats
    WHERE layer BETWEEN $first AND $last AND (layer * 1000003 + neuron) % $one_in = 0
    UNION ALL
    SELECT layer, neuron, -1, n_fired_neg, -min FROM neuron_stats
    WHERE layer BETWEEN $first AND $last AND (layer * 1000003 + neuron) % $one_in = 0
), scored AS (
    SELECT t.layer, t.neuron, t.polarity, t.token_id, t.n / w.count::DOUBLE AS recall,
           (t.n / s.fired::DOUBLE) / (w.count / corpus.total) AS lift, abs(t.sum) / w.count / s.peak AS expected,
           round(abs(t.sum) / s.peak / s.fired * 1099511627776)::BIGINT AS share
    FROM token_stats t JOIN signs s USING (layer, neuron, polarity) JOIN rule_words w USING (token_id), corpus
    WHERE t.layer BETWEEN $first AND $last AND s.fired > 0 AND s.peak > 0 AND w.count > 0
)
SELECT layer, neuron, polarity, token_id, expected, share, recall >= 0.2 AND lift >= 3 AND expected >= 0.1 AS good
FROM scored
