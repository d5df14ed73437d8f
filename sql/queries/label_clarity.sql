-- Labels by pass and interpretability (high, medium, low, NULL = not said), with the share of their pass.
-- of_source: only labels of this source, 'rule' for all 'rule:...'; NULL for all.
-- Ordered by pass, then high, medium, low, NULL.
-- Try: FROM label_clarity(of_source := NULL)
CREATE OR REPLACE MACRO label_clarity(of_source := NULL) AS TABLE
SELECT
    "pass", interpretability, count(*) AS labels, count(*) / sum(count(*)) OVER (PARTITION BY "pass") AS share
FROM labels
WHERE status = 'ok' AND (of_source IS NULL OR source = of_source OR starts_with(source, of_source || ':'))
GROUP BY "pass", interpretability
ORDER BY "pass", list_position(['high', 'medium', 'low'], interpretability) NULLS LAST, interpretability;
