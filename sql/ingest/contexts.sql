-- Activation shards -> contexts that a kept exemplar points into.
SELECT DISTINCT ON (c.context_id) c.context_id, c.document, c.offset, c.token_ids
FROM shard_contexts c
WHERE c.context_id IN (SELECT context_id FROM exemplars)
ORDER BY c.context_id
