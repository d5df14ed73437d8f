-- Answers of a labelling run (temporary table answered) -> rows of cluster_labels, and the names that clusters shows.
DELETE FROM cluster_labels AS l
WHERE EXISTS (
    FROM answered AS n
    WHERE n.clustering = l.clustering AND n.cluster_path = l.cluster_path AND n.model = l.model
      AND (n.status = 'ok' OR l.status <> 'ok'));
INSERT INTO cluster_labels BY NAME
SELECT * FROM answered ORDER BY clustering, len(string_split(cluster_path, '.')), cluster_path;
UPDATE clusters SET label = n.label
FROM answered AS n WHERE n.cluster_path = clusters.cluster_path AND n.status = 'ok';
