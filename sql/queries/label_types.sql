-- Labels by pass and type, with the share of their pass; labels without a type have the type NULL.
-- of_source: only labels of this source, 'rule' for all 'rule:...'; NULL for all.
-- Ordered by pass, then the most frequent type, then its name.
-- Try: FROM label_types(of_source := NULL)
CREATE OR REPLACE MACRO label_types(of_source := NULL) AS TABLE
SELECT "pass", type, count(*) AS labels, count(*) / sum(count(*)) OVER (PARTITION BY "pass") AS share
FROM labels
WHERE status = 'ok' AND (of_source IS NULL OR source = of_source OR starts_with(source, of_source || ':'))
GROUP BY "pass", type
ORDER BY "pass", labels DESC, type;
