-- Logit lens -> the 20 tokens that a neuron promotes most and suppresses most, as lists like those of triggers, for
-- layers $first to $last and one neuron in $one_in; strength in thousandths of the first.
WITH readable AS (
    SELECT (layer::BIGINT << 32) + (neuron << 3) + polarity + 2 AS list, token_id, abs(value)::DOUBLE AS size,
           row_number() OVER ranking AS place, first_value(abs(value)) OVER ranking AS strongest
    FROM logit_lens
    WHERE layer BETWEEN $first AND $last AND (layer * 1000003 + neuron) % $one_in = 0 AND rank < 20
          AND sign(value) = polarity
    WINDOW ranking AS (PARTITION BY layer, neuron, polarity ORDER BY abs(value) DESC, token_id)
)
SELECT list, place, token_id, round(1000 * size / strongest)::INTEGER AS strength, size AS expected, 0::BIGINT AS share
FROM readable
