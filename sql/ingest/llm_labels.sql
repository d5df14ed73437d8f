-- Answers of a labelling run (temporary table answered) -> rows of labels. An answer takes the place of what the same
-- model said in the same pass; a failure only of an earlier failure, so that a label is never lost to one.
DELETE FROM labels AS l
WHERE l.source = 'llm' AND EXISTS (
    FROM answered AS n
    WHERE n.layer = l.layer AND n.neuron = l.neuron AND n."pass" = l."pass" AND n.model = l.model
      AND (n.status = 'ok' OR l.status <> 'ok'));
INSERT INTO labels BY NAME
SELECT * FROM answered ORDER BY layer, neuron, "pass";
