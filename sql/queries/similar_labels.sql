-- The neurons whose labels share the most words with the label of a neuron or the labels of a set of neurons.
-- of_ids: packed ids; the words of several are united. first_layer, last_layer: only neurons of these layers; NULL for
-- any. max_rows: limit; NULL for all that share a word.
-- Words are runs of letters and digits, case ignored. jaccard: shared words / words of either; shared: how many;
-- strongest: which, by the alphabet; n_words: of the neuron. Ordered by jaccard.
-- Try: FROM similar_labels([0])
CREATE OR REPLACE MACRO similar_labels(of_ids, first_layer := NULL, last_layer := NULL, max_rows := 20) AS TABLE
WITH chosen AS MATERIALIZED (
    SELECT list_sort(list_distinct(flatten(list(regexp_extract_all(lower(label), '[\p{L}\p{N}]+'))))) AS words
    FROM neurons WHERE feature_id IN (SELECT unnest(of_ids)::BIGINT) AND label IS NOT NULL
), texts AS (  -- each text once: many neurons share theirs
    SELECT text, list_distinct(regexp_extract_all(text, '[\p{L}\p{N}]+')) AS own
    FROM (
        SELECT DISTINCT lower(label) AS text FROM neurons
        WHERE layer >= coalesce(first_layer, 0) AND layer <= coalesce(last_layer, 1000000)
            AND regexp_matches(lower(label), (SELECT array_to_string(words, '|') FROM chosen))
    )
), scored AS MATERIALIZED (
    SELECT text, len(own) AS n_words, list_filter((SELECT words FROM chosen), lambda w: list_contains(own, w)) AS both_have
    FROM texts
)
SELECT
    n.layer, n.neuron, n.label, n.cluster_path, NULL::DOUBLE AS cosine,
    len(s.both_have) / (s.n_words + (SELECT len(words) FROM chosen) - len(s.both_have)) AS jaccard,
    len(s.both_have) AS shared, s.both_have AS strongest, s.n_words, n.feature_id AS id
FROM scored AS s JOIN neurons AS n ON lower(n.label) = s.text
WHERE len(s.both_have) > 0 AND n.feature_id NOT IN (SELECT unnest(of_ids)::BIGINT)
    AND n.layer >= coalesce(first_layer, 0) AND n.layer <= coalesce(last_layer, 1000000)
ORDER BY jaccard DESC, n.feature_id
LIMIT max_rows;
