-- Logit lens -> output labels by rule: what a positive activation promotes and suppresses directly.
-- focus = how far the strongest promoted token stands out from the 20th; under 1.3 the readout is not about tokens.
WITH readable AS (
    SELECT l.*, v.token FROM logit_lens l JOIN vocab v USING (token_id) WHERE trim(v.token) <> ''
), lists AS (
    SELECT layer, neuron,
           arg_min(trim(token), rank, 5) FILTER (polarity = 1) AS promoted,
           arg_min(trim(token), rank, 5) FILTER (polarity = -1) AS suppressed,
           max(value) FILTER (polarity = 1) / nullif(min(value) FILTER (polarity = 1), 0) AS focus
    FROM readable GROUP BY layer, neuron
)
SELECT layer, neuron, 'output' AS "pass", 0 AS polarity, 'promotes ' || array_to_string(promoted, ', ') AS label,
       array_to_string(promoted[1:3], ', ') AS short_label,
       format('logit lens, final norm weight folded in: promotes {}; suppresses {}; strongest is {:.2f} times the 20th',
              array_to_string(promoted, ', '), coalesce(array_to_string(suppressed, ', '), 'nothing'), focus::DOUBLE) AS description,
       'lexical' AS type,
       CASE WHEN focus >= 2 THEN 'medium' ELSE 'low' END AS interpretability,
       'rule' AS confidence, 'ok' AS status, 'rule:logit_lens' AS source, 'rule:logit_lens/1' AS model,
       '1' AS prompt_version, 'rules' AS run
FROM lists WHERE promoted IS NOT NULL
ORDER BY layer, neuron
