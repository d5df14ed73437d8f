-- Tokens spelled like a text, nearest first (edits with swaps of neighbours, case and outer spaces ignored).
-- At most 2 edits, or a third of the length. of_token: the text. max_rows: limit.
-- Try: FROM near_tokens('dgo', max_rows := 3)
CREATE OR REPLACE MACRO near_tokens(of_token, max_rows := 5) AS TABLE
SELECT token_id, token, damerau_levenshtein(lower(trim(token, ' ')), lower(trim(of_token, ' '))) AS distance
FROM vocab
WHERE token IS NOT NULL AND abs(length(trim(token, ' ')) - length(trim(of_token, ' '))) <= 2
  AND distance <= greatest(2, length(of_token) // 3)
ORDER BY distance, "count" DESC NULLS LAST, token_id
LIMIT max_rows;
