-- Scored tokens (temporary table rule_triggers) -> per neuron and sign its triggers and what all tokens add up to.
SELECT layer, neuron, polarity, sum(share)::BIGINT AS total, count(*) FILTER (good) AS n_triggers,
       list(token_id) FILTER (good) AS trigger_ids
FROM rule_triggers GROUP BY layer, neuron, polarity
