-- Triggers (temporary table rule_triggers) -> one row a token; strength in thousandths of the first.
WITH single AS (
    SELECT layer, neuron, polarity, best[1].expected AS strongest, unnest(best) AS t FROM rule_triggers
)
SELECT layer, neuron, polarity, t.token_id AS token_id, round(1000 * t.expected / strongest)::INTEGER AS strength,
       t.expected AS expected, t.share AS share
FROM single
