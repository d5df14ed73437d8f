-- Many searches in one pass over the word index: for each query its neurons, best first, as label_search ranks them.
-- of_queries: a list of texts, each as the query of label_search, without phrases (quotes are passed over). mode: 'words'
-- or 'fuzzy'. of_field, of_weights, layer_from, layer_to, in_cluster, of_type, of_interpretability, of_source,
-- at_least_score: as there. max_rows: rows for each query; NULL for all. skip_rows: rows of each query to leave out
-- first. asked = number of the query in the list, from 1; place = rank from 1. A query that finds nothing has no row.
-- Try: FROM label_search_many(['dog', 'aspirin'], max_rows := 2)
CREATE OR REPLACE MACRO label_search_many(
    of_queries, mode := 'words', of_field := 'all', of_weights := NULL, layer_from := 0, layer_to := 10000,
    in_cluster := NULL, of_type := NULL, of_interpretability := NULL, of_source := NULL, at_least_score := 0,
    max_rows := 20, skip_rows := 0
) AS TABLE
WITH questions AS (
    SELECT unnest(of_queries) AS query, generate_subscripts(of_queries, 1) AS asked
), items AS (
    SELECT DISTINCT asked, rtrim(item, '*') AS word, mode = 'words' AND ends_with(item, '*') AS is_prefix
    FROM (SELECT asked, unnest(regexp_extract_all(
        lower(query), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+\*?'
    )) AS item FROM questions)
), asked AS (
    SELECT DISTINCT word, is_prefix FROM items
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
), known AS (
    SELECT g.word, arg_max(w.term, g.kept + g.place) AS term
    FROM guesses AS g JOIN search_words AS w ON w.word = g.guess
    GROUP BY g.word
), plain AS (
    SELECT DISTINCT i.asked, k.term FROM items AS i JOIN known AS k ON k.word = i.word
    WHERE NOT i.is_prefix
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
), terms AS (
    SELECT *, CASE WHEN bounded THEN threshold - best + high ELSE -1 END AS needed,
        NOT bounded OR sum(high) OVER (PARTITION BY asked ORDER BY high, term) >= threshold AS leads
    FROM (
        SELECT *, sum(high) OVER (PARTITION BY asked) AS best,
            0.999999 * coalesce(max(kth) OVER (PARTITION BY asked), 0) AS threshold,
            of_field = 'all' AND of_weights IS NULL AND layer_from <= 0 AND layer_to >= 10000
            AND coalesce(in_cluster, of_type, of_interpretability, of_source) IS NULL AND max_rows + skip_rows <= 128
            AND NOT is_wide AS bounded
        FROM (
            SELECT p.asked, t.term, ln(1 + (s.n - df + 0.5) / (df + 0.5)) AS idf, s.mean_size, idf * peaks[1] AS high,
                idf * peaks[ceil(log2(max_rows + skip_rows))::INTEGER + 1] AS kth,
                EXISTS (FROM items AS i WHERE i.asked = p.asked AND i.is_prefix) AS is_wide
            FROM plain AS p JOIN (
                SELECT term, peaks, CASE of_field WHEN 'all' THEN documents WHEN 'label' THEN in_label
                    WHEN 'description' THEN in_description WHEN 'input_label' THEN in_input_label
                    ELSE in_output_label END AS df
                FROM search_terms
            ) AS t ON t.term = p.term CROSS JOIN sizes AS s
        )
    )
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
), candidates AS (
    SELECT DISTINCT t.asked, p.document FROM terms AS t JOIN postings AS p ON p.term = t.term
    WHERE t.leads AND t.idf * 2.2 * p.tf / (p.tf + 0.3 + 0.9 / t.mean_size * p.size) >= t.needed
), wide AS (
    SELECT a.word, w.term, bit_or((1 << w.form)::USMALLINT) AS forms, 1 AS likeness
    FROM asked AS a JOIN search_words AS w ON starts_with(w.word, a.word)
    WHERE a.is_prefix AND w.documents > 0
    GROUP BY a.word, w.term
    UNION ALL
    SELECT word, term, 65535 AS forms, likeness FROM near
), wide_hits AS (
    SELECT w.word, p.document, sum(p.tf) AS tf, any_value(p.size) AS size,
        max(w.likeness * w.likeness * p.tf / (p.tf + 0.3 + 0.9 / s.mean_size * p.size)) AS best, max(w.df) AS df
    FROM (
        SELECT w.*, max(t.df) OVER (PARTITION BY w.word) AS df
        FROM wide AS w JOIN (
            SELECT term, CASE of_field WHEN 'all' THEN documents WHEN 'label' THEN in_label
                WHEN 'description' THEN in_description WHEN 'input_label' THEN in_input_label
                ELSE in_output_label END AS df
            FROM search_terms
        ) AS t ON t.term = w.term
    ) AS w JOIN postings AS p ON p.term = w.term CROSS JOIN sizes AS s
    WHERE p.forms & w.forms <> 0
    GROUP BY w.word, p.document
), wide_parts AS (
    SELECT h.word, h.document, ln(1 + (s.n - df + 0.5) / (df + 0.5)) * 2.2 * tf AS part
    FROM (
        SELECT word, document, CASE WHEN mode = 'fuzzy' THEN df ELSE count(*) OVER (PARTITION BY word) END AS df,
            CASE WHEN mode = 'fuzzy' THEN best ELSE tf / (tf + 0.3 + 0.9 / (SELECT mean_size FROM sizes) * size) END
                AS tf
        FROM wide_hits
    ) AS h CROSS JOIN sizes AS s
), parts AS (
    SELECT t.asked, p.document, t.idf * 2.2 * p.tf / (p.tf + 0.3 + 0.9 / t.mean_size * p.size) AS part
    FROM candidates AS c JOIN terms AS t ON t.asked = c.asked
    JOIN postings AS p ON p.term = t.term AND p.document = c.document
    UNION ALL
    SELECT i.asked, h.document, h.part
    FROM items AS i JOIN wide_parts AS h ON h.word = i.word
    WHERE i.is_prefix OR mode = 'fuzzy'
), totals AS (
    SELECT asked, document, sum(round(part * 68719476736)) / 68719476736 AS score, count(*) AS n_terms
    FROM parts GROUP BY asked, document
), width AS (
    SELECT value::BIGINT AS neurons_of_layer FROM metadata WHERE key = 'neurons_per_layer'
), top AS (
    SELECT asked, document, score, n_terms,
        row_number() OVER (PARTITION BY asked ORDER BY score DESC, document) AS place
    FROM totals
    WHERE score >= at_least_score
      AND (layer_from <= 0 AND layer_to >= 10000
          OR document // (SELECT neurons_of_layer FROM width) BETWEEN layer_from AND layer_to)
      AND (in_cluster IS NULL OR document IN (
          SELECT feature_id FROM neurons
          WHERE cluster_path = in_cluster OR starts_with(cluster_path, in_cluster || '.')))
      AND (coalesce(of_type, of_interpretability, of_source) IS NULL OR document IN (
          SELECT l.layer * w.neurons_of_layer + l.neuron
          FROM labels AS l CROSS JOIN width AS w
          WHERE l.status = 'ok' AND coalesce(of_type, of_interpretability, of_source) IS NOT NULL
            AND (of_type IS NULL OR l.type = of_type)
            AND (of_interpretability IS NULL OR l.interpretability = of_interpretability)
            AND (of_source IS NULL OR l.source = of_source OR starts_with(l.source, of_source || ':'))))
    QUALIFY place > skip_rows AND place <= coalesce(skip_rows + max_rows, 9223372036854775807)
)
SELECT
    t.asked, q.query, t.place, n.layer, n.neuron, n.label, n.input_label, n.output_label, n.cluster_path, t.score,
    t.n_terms, n.description, n.feature_id
FROM top AS t JOIN questions AS q ON q.asked = t.asked JOIN neurons AS n ON n.feature_id = t.document
ORDER BY t.asked, t.place;
