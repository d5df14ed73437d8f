-- Modules whose label contains words of the query, those with most of the words first, then the largest.
-- query: words; a trailing * makes a prefix. max_rows: limit; NULL for all.
-- Try: FROM cluster_search('animals')
CREATE OR REPLACE MACRO cluster_search(query, max_rows := 20) AS TABLE
WITH terms AS (
    SELECT DISTINCT rtrim(word, '*') AS stem, ends_with(word, '*') AS is_prefix
    FROM (SELECT unnest(regexp_extract_all(lower(query), '[\p{L}\p{N}]+\*?')) AS word)
), words AS (
    SELECT cluster_path, unnest(list_distinct(regexp_extract_all(lower(label), '[\p{L}\p{N}]+'))) AS word FROM clusters
), found AS (
    SELECT w.cluster_path, count(DISTINCT (t.stem, t.is_prefix)) AS n_terms
    FROM words AS w JOIN terms AS t ON w.word = t.stem OR (t.is_prefix AND starts_with(w.word, t.stem))
    GROUP BY w.cluster_path
)
SELECT c.cluster_path, c.level, c.label, c.size, f.n_terms
FROM found AS f JOIN clusters AS c ON c.cluster_path = f.cluster_path
ORDER BY f.n_terms DESC, c.size DESC, c.cluster_path
LIMIT max_rows;
