-- The stored clusterings, the primary one first: it is what neurons, clusters and their questions show.
-- max_rows: limit; NULL for all. quality_measure says what quality is; parameters are those of the run.
-- Try: FROM clusterings_list()
CREATE OR REPLACE MACRO clusterings_list(max_rows := 50) AS TABLE
WITH shown AS (
    SELECT coalesce(max(value), 'infomap') AS name FROM metadata WHERE key = 'primary_clustering'
)
SELECT
    clustering, clustering = shown.name AS "primary", method, neurons, modules, top_modules, levels, edges, quality,
    quality_measure, seed, parameters
FROM clusterings, shown
ORDER BY "primary" DESC, clustering
LIMIT max_rows;
