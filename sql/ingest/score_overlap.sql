-- Drawn labels (temporary table score_labels) -> how many are not held out: counted = input labels by rule or LLM, which
-- rest on token statistics too, and these count all documents; seen = input labels by rule that were made from texts of
-- all documents (by rules before version 4, or where no document is of the half that labels are made from).
WITH documents AS (
    SELECT coalesce(bool_and(md5(concat(corpus, ' ', document)) < '8'), false) AS one_half FROM contexts
), made AS (
    SELECT s.id, any_value(s.source) AS source, min(try_cast(l.prompt_version AS INTEGER)) AS version
    FROM score_labels s JOIN labels l ON l.layer = s.layer AND l.neuron = s.neuron AND l."pass" = s."pass"
        AND l.source = s.source AND l.label = s.label AND l.polarity IS NOT DISTINCT FROM s.polarity
        AND l.run IS NOT DISTINCT FROM s.run
    WHERE s."pass" = 'input' AND (s.source = 'llm' OR s.source LIKE 'rule:%')
    GROUP BY s.id
)
SELECT
    count(*) FILTER (EXISTS (FROM token_stats)) AS counted,
    count(*) FILTER (source <> 'llm' AND (one_half OR version < 4)) AS seen
FROM made CROSS JOIN documents
