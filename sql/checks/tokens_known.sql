-- Every token id in use is a row of vocab (graphs: where the atlas has one), and vocab holds each id once.
SELECT 'vocab' AS table_name, token_id, count(*) AS times FROM vocab GROUP BY token_id HAVING count(*) > 1
UNION ALL
SELECT 'token_stats', token_id, count(*) FROM token_stats ANTI JOIN vocab USING (token_id) GROUP BY token_id
UNION ALL
SELECT 'logit_lens', token_id, count(*) FROM logit_lens ANTI JOIN vocab USING (token_id) GROUP BY token_id
UNION ALL
SELECT 'read_tokens', token_id, count(*) FROM read_tokens ANTI JOIN vocab USING (token_id) GROUP BY token_id
UNION ALL
SELECT 'contexts', token_id, count(*)
FROM (SELECT unnest(token_ids) AS token_id FROM contexts) ANTI JOIN vocab USING (token_id)
GROUP BY token_id
UNION ALL
SELECT 'graphs', token_id, count(*)
FROM (SELECT unnest(token_ids) AS token_id FROM graphs WHERE edge_method LIKE 'relp%' AND EXISTS (FROM vocab)) ANTI JOIN vocab USING (token_id)
GROUP BY token_id
ORDER BY ALL;
