-- A context is stored once.
SELECT context_id, count(*) AS times
FROM contexts
GROUP BY context_id
HAVING count(*) > 1
ORDER BY context_id;
