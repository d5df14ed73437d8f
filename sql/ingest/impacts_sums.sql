-- The sum of the members' own KL for every set of several neurons whose members were all measured alone, and what the set
-- does as a multiple of it.
WITH single AS (
    SELECT eval_id, neurons[1] AS id, kl FROM impacts WHERE n_neurons = 1 AND evidence = 'measured'
), member AS (
    SELECT set_id, eval_id, n_neurons, unnest(neurons) AS id FROM impacts WHERE n_neurons > 1
), summed AS (
    SELECT m.set_id, m.eval_id, sum(s.kl ORDER BY m.id) AS sum_kl
    FROM member AS m JOIN single AS s ON s.eval_id = m.eval_id AND s.id = m.id
    GROUP BY m.set_id, m.eval_id
    HAVING count(*) = any_value(m.n_neurons)
)
UPDATE impacts SET sum_kl = s.sum_kl, joint_over_sum = kl / nullif(s.sum_kl, 0)
FROM summed AS s
WHERE impacts.set_id = s.set_id AND impacts.eval_id = s.eval_id;
