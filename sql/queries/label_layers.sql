-- Labels by layer: its neurons, those with a label, their share, and their share of all labelled neurons.
-- of_source: only labels of this source, 'rule' for all 'rule:...'; NULL counts neurons that show a label.
-- Ordered by layer.
-- Try: FROM label_layers(of_source := NULL)
CREATE OR REPLACE MACRO label_layers(of_source := NULL) AS TABLE
WITH having_one AS (
    SELECT layer, count(DISTINCT neuron) AS labelled FROM labels
    WHERE status = 'ok' AND (source = of_source OR starts_with(source, of_source || ':')) GROUP BY layer
), layers AS (
    SELECT layer, count(*) AS neurons, count(label) AS shown FROM neurons GROUP BY layer
), counted AS (
    SELECT a.layer, a.neurons, CASE WHEN of_source IS NULL THEN a.shown ELSE coalesce(b.labelled, 0) END AS labelled
    FROM layers AS a LEFT JOIN having_one AS b ON b.layer = a.layer
)
SELECT
    layer, neurons, labelled, labelled / neurons AS share,
    coalesce(labelled / nullif(sum(labelled) OVER (), 0), 0) AS share_of_labelled
FROM counted
ORDER BY layer;
