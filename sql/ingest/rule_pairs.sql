-- Token lists of many neurons (temporary table rule_lists) -> how alike two tokens are: the cosine of their strengths
-- over those lists. Tokens that the same neurons list are of one family, whatever the family is: no category is known
-- here. Pairs of one list only are chance. The table has both orders.
WITH sizes AS (
    SELECT token_id, sum(strength::BIGINT * strength) AS size FROM rule_lists GROUP BY token_id
), pairs AS (
    SELECT a.token_id AS a, b.token_id AS b, sum(a.strength::BIGINT * b.strength) AS product
    FROM rule_lists a JOIN rule_lists b USING (list)
    WHERE a.token_id < b.token_id GROUP BY ALL HAVING count(*) >= 2
), alike AS (
    SELECT a, b FROM pairs JOIN sizes x ON x.token_id = a JOIN sizes y ON y.token_id = b
    WHERE product / sqrt(x.size::DOUBLE * y.size::DOUBLE) >= 0.3
)
SELECT a, b FROM alike UNION ALL SELECT b, a FROM alike
