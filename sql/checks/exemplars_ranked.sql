-- Exemplars of one neuron, sign and stratum have ranks 0, 1, 2 ... by falling strength, and activations of that sign.
SELECT layer, neuron, polarity, stratum, rank, activation
FROM (
    SELECT *,
        row_number() OVER strongest - 1 AS place,
        lag(activation * polarity) OVER strongest AS stronger
    FROM exemplars
    WINDOW strongest AS (PARTITION BY layer, neuron, polarity, stratum ORDER BY rank)
)
WHERE rank <> place OR activation * polarity > stronger OR polarity NOT IN (-1, 1) OR activation * polarity < 0
   OR polarity IS NULL OR rank IS NULL OR activation IS NULL
ORDER BY ALL;
