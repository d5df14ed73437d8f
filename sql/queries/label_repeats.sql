-- The label texts that most neurons have, by pass, with the share of the pass and the first neuron that has it.
-- Texts are compared without case and outer white space; the text shown is the first of them.
-- of_source: only labels of this source, 'rule' for all 'rule:...'; NULL for all. max_rows: limit; NULL for all.
-- Ordered by number of neurons, most first, then by pass and text.
-- Try: FROM label_repeats(max_rows := 5)
CREATE OR REPLACE MACRO label_repeats(of_source := NULL, max_rows := NULL) AS TABLE
WITH texts AS (
    SELECT
        "pass", lower(trim(label)) AS text, min(label) AS label, count(DISTINCT (layer, neuron)) AS neurons,
        count(*) AS labels, min((layer, neuron)) AS first_one
    FROM labels
    WHERE status = 'ok' AND (of_source IS NULL OR source = of_source OR starts_with(source, of_source || ':'))
    GROUP BY "pass", lower(trim(label))
)
SELECT
    "pass", label, neurons, labels, labels / sum(labels) OVER (PARTITION BY "pass") AS share,
    first_one[1] AS layer, first_one[2] AS neuron
FROM texts
ORDER BY neurons DESC, "pass", text
LIMIT max_rows;
