-- Labels belong to neurons of the model; an ok label has a text, and neurons.label stands in labels.
SELECT l.layer, l.neuron, l."pass" AS of_pass, l.status, l.label
FROM labels AS l LEFT JOIN neurons AS n ON n.layer = l.layer AND n.neuron = l.neuron
WHERE n.layer IS NULL OR (l.status = 'ok' AND coalesce(l.label, '') = '')
UNION ALL
SELECT n.layer, n.neuron, 'neurons.label' AS of_pass, NULL AS status, n.label
FROM neurons AS n
WHERE n.label IS NOT NULL AND (SELECT count(*) FROM labels) > 0
  AND NOT EXISTS (FROM labels AS l WHERE l.layer = n.layer AND l.neuron = n.neuron)
ORDER BY ALL;
