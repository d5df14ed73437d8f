-- Read-token ranks are 0, 1, 2 ... per neuron, part and sign, values falling away from 0; a gate has the sign +1 only.
SELECT layer, neuron, part, polarity, rank, token_id, value
FROM (
    SELECT *,
        row_number() OVER strongest - 1 AS place,
        lag(value * polarity) OVER strongest AS stronger
    FROM read_tokens
    WINDOW strongest AS (PARTITION BY layer, neuron, part, polarity ORDER BY rank)
)
WHERE rank IS DISTINCT FROM place OR value * polarity > stronger OR value * polarity <= 0 OR value IS NULL
   OR (part = 'gate' AND polarity = 1 OR part = 'up' AND polarity IN (-1, 1)) IS NOT TRUE
ORDER BY ALL;
