-- Input labels by rule -> one name per neuron: the short label of the clearest, positive activation first.
SELECT layer::BIGINT * $d_mlp + neuron AS id,
       min_by(short_label, (CASE interpretability WHEN 'high' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END, -polarity)) AS name
FROM labels WHERE "pass" = 'input' AND source LIKE 'rule:%' GROUP BY layer, neuron
