-- The words of labels counted: by module (what may be enriched) and by layer (the background it is held against).
-- of_ids: packed ids that are one module, named 'selection'; NULL for the modules of of_level (1 = top modules, 2 = their
-- parts ...; a neuron whose path is shorter counts for its own module). of_field: 'label', 'description', 'input_label' or
-- 'output_label' (a neuron counts once for each word in it, case ignored), or 'type' or 'source' of its labels, as they are.
-- at_least: fewest members with the word. max_rows: limit; NULL for all.
-- Rows with a module: hits = members with the word, at = their layers, repeated = all of them have one label,
-- verbatim: its words are no independent evidence. Rows with a layer: hits = neurons with the word there.
-- Try: FROM enrich_counts(NULL, of_level := 1, at_least := 1, max_rows := 5)
CREATE OR REPLACE MACRO enrich_counts(of_ids, of_level := 1, of_field := 'label', at_least := 2, max_rows := NULL) AS TABLE
WITH chosen AS (
    SELECT DISTINCT unnest(of_ids)::BIGINT AS id
), places AS (
    SELECT n.layer, n.neuron, n.label, n.description, n.input_label, n.output_label,
        CASE WHEN of_ids IS NULL THEN array_to_string(string_split(n.cluster_path, '.')[1:of_level], '.')
             WHEN c.id IS NOT NULL THEN 'selection' END AS module
    FROM neurons AS n LEFT JOIN chosen AS c ON c.id = n.feature_id
), texts AS (
    SELECT layer, module, CASE of_field WHEN 'label' THEN label WHEN 'description' THEN description
        WHEN 'input_label' THEN input_label WHEN 'output_label' THEN output_label END AS said
    FROM places
), words AS MATERIALIZED (
    SELECT layer, module, hash(said) AS said, unnest(list_distinct(regexp_extract_all(lower(said), '[\p{L}\p{N}]+'))) AS word
    FROM texts WHERE said IS NOT NULL
    UNION ALL
    SELECT p.layer, p.module, hash(t.word) AS said, t.word
    FROM places AS p JOIN (
        SELECT DISTINCT layer, neuron, CASE of_field WHEN 'type' THEN "type" WHEN 'source' THEN source END AS word
        FROM labels WHERE of_field IN ('type', 'source') AND status = 'ok'
    ) AS t ON t.layer = p.layer AND t.neuron = p.neuron
    WHERE t.word IS NOT NULL
), module_names AS MATERIALIZED (
    SELECT module, row_number() OVER (ORDER BY module) AS m FROM (SELECT DISTINCT module FROM words WHERE module IS NOT NULL)
), word_names AS MATERIALIZED (
    SELECT word, row_number() OVER (ORDER BY word) AS w FROM (SELECT DISTINCT word FROM words)
), coded AS MATERIALIZED (  -- module and word in one number: grouping by strings takes twice as long
    SELECT m.m * 4294967296 + w.w AS pair, w.w, x.layer, x.said
    FROM words AS x JOIN word_names AS w ON w.word = x.word LEFT JOIN module_names AS m ON m.module = x.module
), counted AS (
    SELECT m.module, w.word, NULL::INTEGER AS layer, c.hits, c."at", c.repeated
    FROM (
        SELECT pair, count(*) AS hits, list(layer) AS "at", min(said) = max(said) AS repeated
        FROM coded WHERE pair IS NOT NULL GROUP BY pair HAVING count(*) >= at_least
    ) AS c
    JOIN module_names AS m ON m.m = c.pair // 4294967296 JOIN word_names AS w ON w.w = c.pair % 4294967296
    UNION ALL
    SELECT NULL AS module, w.word, c.layer, c.hits, NULL AS "at", NULL AS repeated
    FROM (SELECT w, layer, count(*) AS hits FROM coded GROUP BY w, layer) AS c JOIN word_names AS w ON w.w = c.w
)
SELECT module, word, layer, hits, list_sort("at") AS "at", repeated
FROM counted
ORDER BY module NULLS LAST, word, layer
LIMIT max_rows;
