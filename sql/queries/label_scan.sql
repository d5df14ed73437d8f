-- Neurons whose labels contain words, best first (BM25), by reading every text: for an atlas without a word index.
-- query: words (a trailing * makes a prefix; any of them may match); no stems: dog does not find dogs. of_field: 'all',
-- 'label', 'description', 'input_label' or 'output_label'. layer_from, layer_to, in_cluster, of_type,
-- of_interpretability, of_source, at_least_score, max_rows, skip_rows: as in label_search, which answers the same faster
-- where the index is. 1.64M labels take seconds.
-- Try: FROM label_scan('dog', layer_to := 2, max_rows := 3)
CREATE OR REPLACE MACRO label_scan(
    query, of_field := 'all', layer_from := 0, layer_to := 10000, in_cluster := NULL, of_type := NULL,
    of_interpretability := NULL, of_source := NULL, at_least_score := 0, max_rows := 20, skip_rows := 0
) AS TABLE
WITH terms AS (
    SELECT DISTINCT rtrim(word, '*') AS stem, ends_with(word, '*') AS is_prefix
    FROM (SELECT unnest(regexp_extract_all(
        lower(query), '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+\*?'
    )) AS word)
), texts AS (
    SELECT layer, neuron, lower(CASE of_field
        WHEN 'all' THEN concat_ws(' ', label, description, input_label, output_label)
        WHEN 'label' THEN label
        WHEN 'description' THEN description
        WHEN 'input_label' THEN input_label
        WHEN 'output_label' THEN output_label END) AS body
    FROM neurons
), documents AS (
    SELECT layer, neuron, body, len(regexp_extract_all(
        body, '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+')) AS length
    FROM texts
    WHERE body <> ''
), corpus AS (
    SELECT count(*) AS documents, avg(length) AS mean_length FROM documents WHERE length > 0
), hits AS (
    SELECT d.layer, d.neuron, t.stem, t.is_prefix, d.length, regexp_extract_all(
        d.body, '[^\x00-/:-@\[-`{-\x{bf}×÷\x{2000}-\x{2bff}\x{3000}-\x{303f}\x{fe00}-\x{fe4f}\x{ff00}-\x{ff0f}]+') AS words
    FROM documents AS d JOIN terms AS t ON contains(d.body, t.stem)
), found AS (
    SELECT layer, neuron, stem, is_prefix, length,
        len(list_filter(words, lambda w: w = stem OR (is_prefix AND starts_with(w, stem)))) AS tf
    FROM hits
), counted AS (
    SELECT *, count(*) OVER (PARTITION BY stem, is_prefix) AS df FROM found WHERE tf > 0
), scored AS (
    SELECT f.layer, f.neuron, count(*) AS n_terms, sum(round(68719476736 * ln(1 + (c.documents - f.df + 0.5) / (f.df + 0.5))
        * f.tf * 2.2 / (f.tf + 1.2 * (0.25 + 0.75 * f.length / c.mean_length)))) / 68719476736 AS score
    FROM counted AS f CROSS JOIN corpus AS c
    GROUP BY f.layer, f.neuron
)
SELECT
    s.layer, s.neuron, n.label, n.input_label, n.output_label, n.cluster_path, s.score, s.n_terms, n.description,
    n.feature_id
FROM scored AS s
JOIN neurons AS n ON n.layer = s.layer AND n.neuron = s.neuron
WHERE s.layer BETWEEN layer_from AND layer_to
  AND s.score >= at_least_score
  AND (in_cluster IS NULL OR n.cluster_path = in_cluster OR starts_with(n.cluster_path, in_cluster || '.'))
  AND (coalesce(of_type, of_interpretability, of_source) IS NULL OR EXISTS (
      FROM labels AS l
      WHERE l.layer = s.layer AND l.neuron = s.neuron AND l.status = 'ok'
        AND (of_type IS NULL OR l.type = of_type)
        AND (of_interpretability IS NULL OR l.interpretability = of_interpretability)
        AND (of_source IS NULL OR l.source = of_source OR starts_with(l.source, of_source || ':'))))
ORDER BY s.score DESC, s.layer, s.neuron
LIMIT max_rows OFFSET skip_rows;
