-- Tokenizer and activation shards -> vocab, every token of the model with its count in the corpus.
SELECT v.token_id, v.token, coalesce(c.n, 0)::BIGINT AS count
FROM shard_vocab v
LEFT JOIN (SELECT token_id, sum(n) AS n FROM shard_token_counts GROUP BY token_id) c USING (token_id)
ORDER BY v.token_id
