-- Neurons whose chosen label differs between atlas a and atlas b: gained, lost, changed.
-- Both files are attached, as a and b:  ATTACH 'A.duckdb' AS a (READ_ONLY); ATTACH 'B.duckdb' AS b (READ_ONLY);
-- everything: also neurons with the same label in both. max_rows: limit; NULL for all.
-- similarity = shared words / all words of the two labels (Jaccard, case ignored); 0 when gained or lost.
-- Ordered by similarity, least first, then by neuron.
-- Try: FROM diff_labels(everything := true, max_rows := 5)
CREATE OR REPLACE MACRO diff_labels(everything := false, max_rows := NULL) AS TABLE
WITH both_sides AS (
    SELECT
        coalesce(x.layer, y.layer) AS layer, coalesce(x.neuron, y.neuron) AS neuron, x.label AS label_a,
        y.label AS label_b,
        list_distinct(regexp_extract_all(lower(coalesce(x.label, '')), '[\pL\pN]+')) AS words_a,
        list_distinct(regexp_extract_all(lower(coalesce(y.label, '')), '[\pL\pN]+')) AS words_b
    FROM a.neurons AS x FULL JOIN b.neurons AS y ON x.feature_id = y.feature_id
    WHERE (x.label IS NOT NULL OR y.label IS NOT NULL) AND (everything OR x.label IS DISTINCT FROM y.label)
), shared_words AS (
    SELECT *, len(list_intersect(words_a, words_b)) AS n_shared FROM both_sides
)
SELECT
    CASE WHEN label_a IS NULL THEN 'gained' WHEN label_b IS NULL THEN 'lost' WHEN label_a = label_b THEN 'same'
        ELSE 'changed' END AS change,
    layer, neuron, label_a, label_b,
    CASE WHEN label_a = label_b THEN 1
        ELSE coalesce(n_shared / nullif(len(words_a) + len(words_b) - n_shared, 0), 0) END::DOUBLE AS similarity
FROM shared_words
ORDER BY similarity, layer, neuron
LIMIT max_rows;
