-- How far labels tell neurons apart, by pass: distinct texts, labels whose text no other has, and generic ones.
-- uniqueness = distinct texts / labels; texts are compared without case and outer white space. generic = labels whose
-- text at least `at_least` labels of the pass have. characters = mean length.
-- of_source: only labels of this source, 'rule' for all 'rule:...'; NULL for all. at_least: see generic.
-- Ordered by pass.
-- Try: FROM label_uniqueness(at_least := 10)
CREATE OR REPLACE MACRO label_uniqueness(of_source := NULL, at_least := 10) AS TABLE
WITH texts AS (
    SELECT "pass", lower(trim(label)) AS text, count(*) AS n, sum(length(label)) AS characters
    FROM labels
    WHERE status = 'ok' AND (of_source IS NULL OR source = of_source OR starts_with(source, of_source || ':'))
    GROUP BY "pass", lower(trim(label))
)
SELECT
    "pass", sum(n)::BIGINT AS labels, count(*) AS distinct_labels, count(*) / sum(n) AS uniqueness,
    count(*) FILTER (n = 1) AS alone, coalesce(sum(n) FILTER (n >= at_least), 0)::BIGINT AS generic,
    coalesce(sum(n) FILTER (n >= at_least), 0) / sum(n) AS generic_share, sum(characters) / sum(n) AS characters
FROM texts
GROUP BY "pass"
ORDER BY "pass";
