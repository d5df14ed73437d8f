-- Who labelled how much: labels by source and pass, neurons with one, neurons that show its text, failures.
-- shown counts a neuron for every source that has the text it shows; share is of all neurons.
-- failures are rows whose status is not ok: parse_error, refused, api_error.
-- Ordered by labels, most first, then by source and pass.
-- Try: FROM label_sources()
CREATE OR REPLACE MACRO label_sources() AS TABLE
SELECT
    l.source, l."pass", count(*) FILTER (l.status = 'ok') AS labels,
    count(DISTINCT (l.layer, l.neuron)) FILTER (l.status = 'ok') AS neurons,
    count(DISTINCT (l.layer, l.neuron)) FILTER (l.status = 'ok' AND l.label = n.label) AS shown,
    count(DISTINCT (l.layer, l.neuron)) FILTER (l.status = 'ok') / (SELECT count(*) FROM neurons) AS share,
    count(*) FILTER (l.status <> 'ok') AS failures
FROM labels AS l LEFT JOIN neurons AS n ON n.layer = l.layer AND n.neuron = l.neuron
GROUP BY l.source, l."pass"
ORDER BY labels DESC, l.source, l."pass";
