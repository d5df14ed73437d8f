-- Sets of several neurons that were ablated jointly, batches and their prefixes: newest run first, largest first.
-- of_eval: eval_id; NULL for all. max_rows: limit; NULL for all. joint_over_sum: kl against the members' sum.
-- Try: FROM batch_sets()
CREATE OR REPLACE MACRO batch_sets(of_eval := NULL, max_rows := 50) AS TABLE
SELECT
    set_id, eval_id, n_neurons, impact_score, mean_change, max_change, safe_to_prune, kl, kl_low, kl_high, delta_nll,
    top1_flip_rate, sum_kl, joint_over_sum, budget, reason, tokens, documents, ablation, run, created, neurons
FROM impacts
WHERE n_neurons > 1 AND evidence = 'measured' AND (of_eval IS NULL OR eval_id = of_eval)
ORDER BY run DESC, n_neurons DESC, set_id
LIMIT max_rows;
