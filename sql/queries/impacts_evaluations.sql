-- The evaluations of impacts: what was ablated on which text, newest first; impacts of two of them are not comparable.
-- max_rows: limit; NULL for all.
-- Try: FROM impacts_evaluations()
CREATE OR REPLACE MACRO impacts_evaluations(max_rows := 50) AS TABLE
SELECT
    eval_id, any_value(ablation) AS ablation, any_value(corpus) AS corpus, any_value(tokens) AS tokens,
    any_value(documents) AS documents, any_value(model) AS model, any_value(revision) AS revision,
    any_value(dtype) AS dtype, count(*) FILTER (n_neurons = 1) AS neurons_alone, count(*) FILTER (n_neurons > 1) AS sets,
    count(*) FILTER (evidence = 'estimated') AS estimated, count(*) FILTER (safe_to_prune) AS safe,
    max(created) AS last_created
FROM impacts
GROUP BY eval_id
ORDER BY last_created DESC, eval_id
LIMIT max_rows;
