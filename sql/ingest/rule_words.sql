-- vocab -> the tokens as labels write them: without spaces around, white space written out.
SELECT token_id, count,
       CASE WHEN trim(token) <> '' THEN replace(replace(replace(trim(token), chr(10), '\n'), chr(13), '\r'), chr(9), '\t')
            WHEN len(token) = 1 THEN 'space' ELSE len(token) || ' spaces' END AS word
FROM vocab WHERE token <> ''
