-- Activation shards -> token_stats: per neuron and sign the $keep tokens with the largest |sum| of strong firings.
WITH merged AS (
    SELECT layer, neuron, polarity, token_id, sum(n)::BIGINT AS n, sum(sum ORDER BY shard) AS sum,
           max(max) AS max, min(min) AS min
    FROM shard_token_stats GROUP BY layer, neuron, polarity, token_id
)
SELECT * FROM merged
QUALIFY row_number() OVER (PARTITION BY layer, neuron, polarity ORDER BY abs(sum) DESC, token_id) <= $keep
ORDER BY layer, neuron, polarity DESC, abs(sum) DESC, token_id
