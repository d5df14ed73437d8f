-- Logit lens -> the readable tokens that a neuron promotes or suppresses, as lists like those of triggers, for layers
-- $first to $last and one neuron in $one_in; strength in thousandths of the first.
WITH readable AS (
    SELECT l.layer, l.neuron, l.polarity, l.token_id, abs(l.value)::DOUBLE AS size,
           max(abs(l.value)) OVER (PARTITION BY l.layer, l.neuron, l.polarity)::DOUBLE AS strongest
    FROM logit_lens l JOIN rule_words w USING (token_id)
    WHERE l.layer BETWEEN $first AND $last AND (l.layer * 1000003 + l.neuron) % $one_in = 0 AND l.rank < 20
          AND sign(l.value) = l.polarity
)
SELECT layer, neuron, polarity, token_id, round(1000 * size / strongest)::INTEGER AS strength, size AS expected,
       0::BIGINT AS share
FROM readable
