-- Activation shards -> exemplars. Stratum 0: the strongest over all shards, ties by (context, position); a sample
-- keeps the smallest priorities. Every shard holds as many as may be kept, so the largest rank is the limit.
WITH limits AS (
    SELECT stratum, max(rank) AS last_rank FROM shard_exemplars GROUP BY stratum
), chosen AS (
    SELECT e.*, row_number() OVER (
        PARTITION BY layer, neuron, polarity, stratum
        ORDER BY CASE WHEN stratum = 0 THEN 0 ELSE priority END, -polarity * activation, context_id, position) - 1 AS place
    FROM shard_exemplars e
), kept AS (
    SELECT chosen.* FROM chosen JOIN limits USING (stratum) WHERE place <= last_rank
)
SELECT layer, neuron, polarity, stratum,
       (row_number() OVER (PARTITION BY layer, neuron, polarity, stratum
                           ORDER BY -polarity * activation, context_id, position) - 1)::SMALLINT AS rank,
       activation, context_id, position, window_start, "window"
FROM kept
ORDER BY layer, neuron, polarity DESC, stratum, rank
