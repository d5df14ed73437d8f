-- The parts of a search's scores: one row per neuron and word of the query (in mode 'words' per stem).
-- query, of_field, of_weights: as in label_search. mode: 'words' or 'fuzzy'. of_documents: only these neurons
-- (feature_id); NULL for all that match.
-- BM25 with k1 = 1.2, b = 0.75 (Robertson and Zaragoza 2009): score = idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75
-- * length / mean_length)), idf = ln(1 + (documents - df + 0.5) / (df + 0.5)). A document is one neuron's text in the
-- field, or its four texts together; with weights tf, length and mean_length are weighted sums over the fields (BM25F,
-- as if a text stood there so often). tf counts all inflections of a stem, of a prefix all words that begin so. In mode
-- 'fuzzy' the score of a word is times likeness^2, likeness = 1 - distance / length of the longer word, of the near stem
-- that gives the best score, with the largest df of the 50 nearest words' stems.
-- Try: FROM label_search_explain('dog cat*')
CREATE OR REPLACE MACRO label_search_explain(
    query, mode := 'words', of_field := 'all', of_weights := NULL, of_documents := NULL
) AS TABLE
WITH asked AS (
    SELECT DISTINCT rtrim(item, '*') AS word, mode = 'words' AND ends_with(item, '*') AS is_prefix
    FROM (SELECT unnest(regexp_extract_all(
        lower(query), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+\*?'
    )) AS item)
    WHERE mode IN ('words', 'fuzzy')
), bases AS (
    SELECT a.word, left(a.word, length(a.word) - length(e.ending)) AS base
    FROM asked AS a
    JOIN (VALUES (''), ('s'), ('es'), ('d'), ('ed'), ('ing'), ('er'), ('ers'), ('ly')) AS e(ending)
        ON ends_with(a.word, e.ending) AND (e.ending = '' OR length(a.word) - length(e.ending) >= 3)
    WHERE mode = 'words' AND NOT a.is_prefix
), guesses AS (
    SELECT word, 4 * length(base) AS kept, unnest([base, base || 'e',
            CASE WHEN ends_with(base, 'y') THEN left(base, -1) || 'i' END,
            CASE WHEN right(base, 1) = right(left(base, -1), 1) THEN left(base, -1) END]) AS guess,
        unnest([CASE WHEN base = word OR length(base) > 3 THEN 3 ELSE 1 END, 2, 1, 0]) AS place
    FROM bases
), plain AS (
    SELECT DISTINCT term FROM (
        SELECT arg_max(w.term, g.kept + g.place) AS term
        FROM guesses AS g JOIN search_words AS w ON w.word = g.guess
        GROUP BY g.word
    )
), near AS (
    SELECT word, term, max(likeness) AS likeness
    FROM (
        SELECT a.word, w.term,
            1 - damerau_levenshtein(a.word, w.word) / greatest(length(a.word), length(w.word)) AS likeness
        FROM (
            SELECT word, CASE WHEN length(word) < 3 THEN 0 WHEN length(word) < 6 THEN 1 ELSE 2 END AS reach,
                list_bit_or(list_transform(string_split(word, ''), lambda x: 1::UINTEGER << (unicode(x) % 32)))
                    AS letters
            FROM asked WHERE mode = 'fuzzy'
        ) AS a JOIN search_words AS w
            ON w.documents > 0 AND abs(length(w.word) - length(a.word)) <= a.reach
            AND bit_count(xor(w.letters, a.letters)) <= 2 * a.reach
            AND damerau_levenshtein(a.word, w.word) <= a.reach
        QUALIFY row_number() OVER (PARTITION BY a.word ORDER BY likeness DESC, w.documents DESC, w.word) <= 50
    )
    GROUP BY word, term
), sizes AS (
    SELECT max(documents) FILTER (field = of_field) AS n, sum(words * CASE
        WHEN field = 'all' OR of_field NOT IN ('all', field) THEN 0 WHEN of_field = field THEN 1
        ELSE coalesce((of_weights::DOUBLE[])[list_position(
            ['label', 'description', 'input_label', 'output_label'], field)], 1) END) / n AS mean_size
    FROM search_fields
), postings AS NOT MATERIALIZED (
    SELECT term, document, forms, occurrences::DOUBLE AS tf, length AS size
    FROM search_postings
    WHERE of_field = 'all' AND of_weights IS NULL
    UNION ALL
    SELECT p.term, p.document, p.forms,
        w[1] * (occurrences - p.in_description - p.in_input_label - p.in_output_label) + w[2] * p.in_description
            + w[3] * p.in_input_label + w[4] * p.in_output_label AS tf,
        w[1] * d.in_label + w[2] * d.in_description + w[3] * d.in_input_label + w[4] * d.in_output_label AS size
    FROM (
        SELECT *, CASE of_field WHEN 'all' THEN of_weights::DOUBLE[] WHEN 'label' THEN [1.0, 0, 0, 0]
            WHEN 'description' THEN [0.0, 1, 0, 0] WHEN 'input_label' THEN [0.0, 0, 1, 0] ELSE [0.0, 0, 0, 1] END AS w
        FROM search_postings
    ) AS p JOIN search_documents AS d ON d.document = p.document
    WHERE (of_field <> 'all' OR of_weights IS NOT NULL) AND tf > 0
), wide AS (
    SELECT a.word, w.term, bit_or((1 << w.form)::USMALLINT) AS forms, 1 AS likeness
    FROM asked AS a JOIN search_words AS w ON starts_with(w.word, a.word)
    WHERE a.is_prefix AND w.documents > 0
    GROUP BY a.word, w.term
    UNION ALL
    SELECT word, term, 65535 AS forms, likeness FROM near
), stems AS (
    SELECT t.term, t.stem, CASE of_field WHEN 'all' THEN t.documents WHEN 'label' THEN t.in_label
        WHEN 'description' THEN t.in_description WHEN 'input_label' THEN t.in_input_label
        ELSE t.in_output_label END AS df
    FROM search_terms AS t
), plain_parts AS (
    SELECT p.document, t.stem AS word, p.tf, t.df, p.size, 1::DOUBLE AS likeness
    FROM plain AS w JOIN stems AS t ON t.term = w.term JOIN postings AS p ON p.term = t.term
), wide_hits AS (
    SELECT w.word, p.document, p.tf, p.size, w.likeness, w.df
    FROM (
        SELECT w.*, max(t.df) OVER (PARTITION BY w.word) AS df FROM wide AS w JOIN stems AS t ON t.term = w.term
    ) AS w JOIN postings AS p ON p.term = w.term
    WHERE p.forms & w.forms <> 0
), wide_parts AS (
    SELECT document, word || '*' AS word, sum(tf) AS tf, count(*) OVER (PARTITION BY word) AS df,
        any_value(size) AS size, 1::DOUBLE AS likeness
    FROM wide_hits WHERE mode = 'words' GROUP BY word, document
    UNION ALL
    SELECT document, word, arg_max(tf, gain) AS tf, any_value(df) AS df, any_value(size) AS size,
        arg_max(likeness, gain) AS likeness
    FROM (
        SELECT h.*, h.likeness * h.likeness * h.tf / (h.tf + 0.3 + 0.9 / s.mean_size * h.size) AS gain
        FROM wide_hits AS h CROSS JOIN sizes AS s WHERE mode = 'fuzzy'
    )
    GROUP BY word, document
)
SELECT
    n.layer, n.neuron, p.word AS term, p.tf, p.df, ln(1 + (s.n - p.df + 0.5) / (p.df + 0.5)) AS idf,
    p.size AS length, s.mean_size AS mean_length, p.likeness,
    idf * p.likeness * p.likeness * p.tf * 2.2 / (p.tf + 1.2 * (0.25 + 0.75 * p.size / s.mean_size)) AS score,
    n.feature_id
FROM (FROM plain_parts UNION ALL BY NAME FROM wide_parts) AS p
CROSS JOIN sizes AS s
JOIN neurons AS n ON n.feature_id = p.document
WHERE of_documents IS NULL OR list_contains(of_documents, n.feature_id)
ORDER BY n.feature_id, term;
