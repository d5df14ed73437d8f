-- Neurons by the interpretability of their output and of their input label: whose triggers are clearer than effects.
-- A neuron with several labels of a pass counts with its clearest. Neurons without one of the passes are left out.
-- of_source: only labels of this source, 'rule' for all 'rule:...'; NULL for all.
-- Ordered by output, then input, from high to low.
-- Try: SELECT count(*) FROM label_clarity_pairs(of_source := NULL)
CREATE OR REPLACE MACRO label_clarity_pairs(of_source := NULL) AS TABLE
WITH clearest AS (
    SELECT
        layer, neuron,
        min(list_position(['high', 'medium', 'low'], interpretability)) FILTER ("pass" = 'output') AS output_rank,
        min(list_position(['high', 'medium', 'low'], interpretability)) FILTER ("pass" = 'input') AS input_rank
    FROM labels
    WHERE status = 'ok' AND (of_source IS NULL OR source = of_source OR starts_with(source, of_source || ':'))
    GROUP BY layer, neuron
)
SELECT
    ['high', 'medium', 'low'][output_rank] AS output_interpretability,
    ['high', 'medium', 'low'][input_rank] AS input_interpretability,
    count(*) AS neurons, count(*) / sum(count(*)) OVER () AS share
FROM clearest
WHERE output_rank > 0 AND input_rank > 0
GROUP BY output_rank, input_rank
ORDER BY output_rank, input_rank;
