-- Texts that neurons show in the fields $fields and that have no vector yet, neither in label_texts (when $kept: its
-- vectors are of the same model) nor among those embedded so far (embedded_texts, temporary); by the alphabet.
SELECT DISTINCT s.text
FROM (
    SELECT unnest(['label', 'input_label', 'output_label', 'description']) AS field,
        unnest([label, input_label, output_label, description]) AS text
    FROM neurons
) AS s
WHERE trim(s.text) <> '' AND list_contains($fields, s.field)
  AND s.text NOT IN (SELECT text FROM label_texts WHERE $kept)
  AND s.text NOT IN (SELECT text FROM embedded_texts)
ORDER BY s.text
