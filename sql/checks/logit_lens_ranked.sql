-- Logit-lens ranks are 0, 1, 2 ... per neuron and sign, promoted values falling, suppressed values rising.
SELECT layer, neuron, polarity, rank, token_id, value
FROM (
    SELECT *,
        row_number() OVER strongest - 1 AS place,
        lag(value * polarity) OVER strongest AS stronger
    FROM logit_lens
    WINDOW strongest AS (PARTITION BY layer, neuron, polarity ORDER BY rank)
)
WHERE rank IS DISTINCT FROM place OR value * polarity > stronger OR polarity NOT IN (-1, 1) OR value IS NULL
ORDER BY ALL;
