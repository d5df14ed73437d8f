-- Embedded texts are numbered once and have codes of one length; every use names such a text and a neuron.
SELECT 'label_texts' AS table_name, text_id, NULL AS layer, NULL AS neuron
FROM label_texts
WHERE text_id IS NULL OR text IS NULL OR factor IS NULL OR NOT isfinite(factor) OR regexp_matches(code, '[^#-}]')
   OR length(code) <> (SELECT max(length(code)) FROM label_texts)
UNION ALL
SELECT 'label_texts', text_id, NULL, NULL FROM label_texts GROUP BY text_id HAVING count(*) > 1
UNION ALL
SELECT 'label_text_uses', u.text_id, u.layer, u.neuron
FROM label_text_uses AS u
LEFT JOIN label_texts AS t ON t.text_id = u.text_id
LEFT JOIN neurons AS n ON n.layer = u.layer AND n.neuron = u.neuron
WHERE t.text_id IS NULL OR n.layer IS NULL OR u.field NOT IN ('label', 'input_label', 'output_label', 'description')
ORDER BY ALL;
