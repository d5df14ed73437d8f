-- Scored tokens (temporary table rule_triggers) -> the 30 strongest triggers of each neuron and sign; list = layer,
-- neuron and sign in one number, place = 1 for the strongest, strength in thousandths of it.
WITH ranked AS (
    SELECT (layer::BIGINT << 32) + (neuron << 3) + polarity + 2 AS list, token_id, expected, share,
           row_number() OVER ranking AS place, first_value(expected) OVER ranking AS strongest
    FROM rule_triggers WHERE good
    WINDOW ranking AS (PARTITION BY layer, neuron, polarity ORDER BY expected DESC, token_id)
)
SELECT list, place, token_id, round(1000 * expected / strongest)::INTEGER AS strength, expected, share
FROM ranked WHERE place <= 30
