-- Ranks of a neuron's connections are 0, 1, 2 ... per direction and sign, by falling strength.
SELECT layer, neuron, direction, polarity, rank, effective_strength
FROM (
    SELECT *,
        row_number() OVER strongest - 1 AS place,
        lag(abs(effective_strength)) OVER strongest AS stronger
    FROM wiring
    WINDOW strongest AS (PARTITION BY layer, neuron, direction, polarity ORDER BY rank)
)
WHERE rank IS DISTINCT FROM place OR abs(effective_strength) > stronger
ORDER BY ALL;
