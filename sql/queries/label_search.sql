-- Neurons by their labels, best first: by words (BM25 over stems), near words, part of a text or a regular expression.
-- query: with mode 'words' any of the words may match, each with its inflections (dog finds dogs); dr* every word that
-- begins so; "past tense" in quotes must stand so in a text. mode: 'words'; 'fuzzy' (words with up to 1 or 2 letters
-- missing, added, changed or swapped: 0 in words of 1-2 letters, 1 up to 5, else 2); 'substring' (the query as it
-- stands, case ignored, score 1); 'regex' (RE2, linear time whatever the expression; case ignored, score 1).
-- of_field: 'all', 'label', 'description', 'input_label' or 'output_label'; for 'all', of_weights gives the weights of
-- these four ([3, 1, 1, 1]; NULL = equal). layer_from, layer_to: layers, both included. in_cluster: a module path, the
-- modules below it included. of_type, of_interpretability, of_source: the neuron has an ok label of this type, this
-- interpretability ('high') and from this source ('rule' also finds 'rule:...'), all of one label. Filters choose rows;
-- they do not change scores. at_least_score: lowest score. max_rows: limit; NULL for all. skip_rows: rows to leave out
-- first. score_parts: see label_search_explain, which has the formula; an atlas without a word index answers only
-- substring and regex here, see label_scan.
-- How: search_words gives stems, search_postings their neurons. A word of the query that no text has takes the stem of
-- the longest known word or stem left when an ending is taken off. A row of a common word is passed over when its score
-- and the best of the other words cannot reach what search_terms.peaks says that max_rows neurons have: exact.
-- Try: FROM label_search('dog', layer_to := 2, max_rows := 3)
CREATE OR REPLACE MACRO label_search(
    query, mode := 'words', of_field := 'all', of_weights := NULL, layer_from := 0, layer_to := 10000,
    in_cluster := NULL, of_type := NULL, of_interpretability := NULL, of_source := NULL, at_least_score := 0,
    max_rows := 20, skip_rows := 0
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
), terms AS (
    SELECT *, CASE WHEN bounded THEN threshold - best + high ELSE -1 END AS needed,
        NOT bounded OR sum(high) OVER (ORDER BY high, term) >= threshold AS leads
    FROM (
        SELECT *, sum(high) OVER () AS best, 0.999999 * coalesce(max(kth) OVER (), 0) AS threshold,
            mode = 'words' AND of_field = 'all' AND of_weights IS NULL AND layer_from <= 0 AND layer_to >= 10000
            AND coalesce(in_cluster, of_type, of_interpretability, of_source) IS NULL AND max_rows + skip_rows <= 128
            AND NOT regexp_matches(query, '[*"]') AS bounded
        FROM (
            SELECT t.term, ln(1 + (s.n - df + 0.5) / (df + 0.5)) AS idf, s.mean_size, idf * peaks[1] AS high,
                idf * peaks[ceil(log2(max_rows + skip_rows))::INTEGER + 1] AS kth
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
    SELECT document FROM terms AS t JOIN postings AS p ON p.term = t.term
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
), parts AS (
    SELECT p.document, t.idf * 2.2 * p.tf / (p.tf + 0.3 + 0.9 / t.mean_size * p.size) AS part
    FROM terms AS t JOIN postings AS p ON p.term = t.term
    WHERE p.document IN (FROM candidates)
    UNION ALL
    SELECT h.document, ln(1 + (s.n - df + 0.5) / (df + 0.5)) * 2.2 * tf AS part
    FROM (
        SELECT word, document, CASE WHEN mode = 'fuzzy' THEN df ELSE count(*) OVER (PARTITION BY word) END AS df,
            CASE WHEN mode = 'fuzzy' THEN best ELSE tf / (tf + 0.3 + 0.9 / (SELECT mean_size FROM sizes) * size) END
                AS tf
        FROM wide_hits
    ) AS h CROSS JOIN sizes AS s
), totals AS (
    SELECT document, sum(round(part * 68719476736)) / 68719476736 AS score, count(*) AS n_terms
    FROM parts GROUP BY document
), texts AS (
    SELECT feature_id AS document, CASE WHEN of_field IN ('all', 'label') THEN label END AS a,
        CASE WHEN of_field IN ('all', 'description') THEN description END AS b,
        CASE WHEN of_field IN ('all', 'input_label') THEN input_label END AS c,
        CASE WHEN of_field IN ('all', 'output_label') THEN output_label END AS d
    FROM neurons
), likely AS MATERIALIZED (
    SELECT document, lower(concat_ws(chr(1), a, b, c, d)) AS body
    FROM texts
    WHERE mode = 'words' AND contains(query, '"') AND document IN (
        SELECT document FROM totals
        WHERE n_terms >= CASE WHEN regexp_full_match(query, '"[^"]*"') THEN (SELECT count(*) FROM terms) ELSE 1 END)
      AND regexp_matches(lower(concat_ws(chr(1), a, b, c, d)), array_to_string(regexp_extract_all(
          regexp_extract(lower(query), '"([^"]*)"', 1),
          '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'),
          '[\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'))
), quoted AS (
    SELECT document
    FROM likely
    WHERE len(list_filter(regexp_extract_all(lower(query), '"([^"]*)"', 1), lambda q: NOT contains(
        concat(' ', array_to_string(regexp_extract_all(
            body,
            '\x01|[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'),
            ' '), ' '),
        concat(' ', array_to_string(regexp_extract_all(
            q, '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+'),
            ' '), ' ')) AND trim(q) <> '')) = 0
), matches AS (
    SELECT document, score, n_terms FROM totals
    WHERE NOT contains(query, '"') OR document IN (FROM quoted)
    UNION ALL
    SELECT document, 1 AS score, 1 AS n_terms
    FROM texts
    WHERE mode = 'substring' AND (contains(lower(a), lower(query)) OR contains(lower(b), lower(query))
        OR contains(lower(c), lower(query)) OR contains(lower(d), lower(query)))
    UNION ALL
    SELECT document, 1 AS score, 1 AS n_terms
    FROM texts
    WHERE mode = 'regex' AND (regexp_matches(a, CASE mode WHEN 'regex' THEN query ELSE '' END, 'i')
        OR regexp_matches(b, CASE mode WHEN 'regex' THEN query ELSE '' END, 'i')
        OR regexp_matches(c, CASE mode WHEN 'regex' THEN query ELSE '' END, 'i')
        OR regexp_matches(d, CASE mode WHEN 'regex' THEN query ELSE '' END, 'i'))
), width AS (
    SELECT value::BIGINT AS neurons_of_layer FROM metadata WHERE key = 'neurons_per_layer'
), top AS (
    SELECT document, score, n_terms
    FROM matches
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
    ORDER BY score DESC, document
    LIMIT max_rows OFFSET skip_rows
)
SELECT
    n.layer, n.neuron, n.label, n.input_label, n.output_label, n.cluster_path, t.score, t.n_terms, n.description,
    n.feature_id
FROM top AS t JOIN neurons AS n ON n.feature_id = t.document
ORDER BY t.score DESC, n.feature_id;
