-- vocab -> the tokens as labels write them: without spaces around, white space written out. spelling = the first token
-- that is the same word but for capitals and spaces.
WITH written AS (
    SELECT token_id, count,
           CASE WHEN trim(token) <> '' THEN replace(replace(replace(trim(token), chr(10), '\n'), chr(13), '\r'), chr(9), '\t')
                WHEN len(token) = 1 THEN 'space' ELSE len(token) || ' spaces' END AS word
    FROM vocab WHERE token <> ''
)
SELECT *, min(token_id) OVER (PARTITION BY lower(word)) AS spelling FROM written
