-- Neurons by words, near words and meaning together: the cosine of the meaning, plus what the words add.
-- by_words, by_fuzzy: rows of label_search as lists, modes 'words' and 'fuzzy'; by_meaning: rows of label_semantic or
-- label_like. of_terms: words in the query. A neuron that is missing in by_meaning counts as its last row.
-- at_least_score: lowest score. max_rows: limit; NULL for all. skip_rows: rows to leave out first.
-- score = meaning + 0.3 * greatest(words, 0.8 * fuzzy); words and fuzzy are a row's score over the best of its list,
-- times the square of the share of the query's words that it has: of a long query single words say little.
-- Try: FROM label_hybrid((SELECT list(s) FROM label_search('dog') AS s), NULL, (SELECT list(s) FROM label_like(0, 0) AS s))
CREATE OR REPLACE MACRO label_hybrid(
    by_words, by_fuzzy, by_meaning, of_terms := 1, at_least_score := NULL, max_rows := 20, skip_rows := 0
) AS TABLE
WITH worded AS (
    SELECT r.feature_id AS id, r.score / max(r.score) OVER () * least(1, r.n_terms / of_terms) ** 2 AS part
    FROM (SELECT unnest(by_words::STRUCT(feature_id BIGINT, score DOUBLE, n_terms BIGINT)[]) AS r)
), spelled AS (
    SELECT r.feature_id AS id, r.score / max(r.score) OVER () * least(1, r.n_terms / of_terms) ** 2 AS part
    FROM (SELECT unnest(by_fuzzy::STRUCT(feature_id BIGINT, score DOUBLE, n_terms BIGINT)[]) AS r)
), meant AS MATERIALIZED (
    SELECT r.feature_id AS id, r.score AS part
    FROM (SELECT unnest(by_meaning::STRUCT(feature_id BIGINT, score DOUBLE)[]) AS r)
), parts AS (
    SELECT id, max(part) FILTER (list = 'w') AS words, max(part) FILTER (list = 'f') AS fuzzy,
        coalesce(max(part) FILTER (list = 'm'), (SELECT min(part) FROM meant), 0) AS meaning
    FROM (
        SELECT id, part, 'w' AS list FROM worded UNION ALL SELECT id, part, 'f' FROM spelled
        UNION ALL SELECT id, part, 'm' FROM meant
    )
    GROUP BY id
), found AS (
    SELECT *, round(meaning + 0.3 * greatest(coalesce(words, 0), 0.8 * coalesce(fuzzy, 0)), 6) AS score
    FROM parts WHERE at_least_score IS NULL OR score >= at_least_score
    ORDER BY score DESC, id LIMIT max_rows OFFSET skip_rows
)
SELECT
    n.layer, n.neuron, n.label, n.input_label, n.output_label, n.cluster_path, f.score, round(f.meaning, 6) AS meaning,
    round(coalesce(f.words, 0), 6) AS words, round(coalesce(f.fuzzy, 0), 6) AS fuzzy, n.description, n.feature_id
FROM found AS f JOIN neurons AS n ON n.feature_id = f.id
ORDER BY f.score DESC, n.feature_id;
