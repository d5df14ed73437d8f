-- The tokens of the vocabulary that a text means: equal to it, or equal after trimming spaces on both sides.
-- of_tokens: list of texts; a text of spaces only matches exactly.
-- Try: FROM matching_tokens(['dog'])
CREATE OR REPLACE MACRO matching_tokens(of_tokens) AS TABLE
SELECT a.word, v.token_id, v.token, v."count" AS n
FROM (SELECT DISTINCT unnest(of_tokens) AS word) AS a
JOIN vocab AS v ON trim(v.token, ' ') = trim(a.word, ' ')
WHERE v.token = a.word OR trim(a.word, ' ') <> ''
ORDER BY a.word, v.token_id;
