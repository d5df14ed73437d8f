-- Calibration documents are SHA-256 hashes in lower-case hex, each once per role (gradients or activations).
SELECT role, sha256, 1 AS found FROM calibration_documents
WHERE role IS NULL OR role NOT IN ('gradients', 'activations')
   OR sha256 IS NULL OR NOT regexp_full_match(sha256, '[0-9a-f]{64}')
UNION ALL
SELECT role, sha256, count(*) FROM calibration_documents GROUP BY role, sha256 HAVING count(*) > 1
ORDER BY ALL;
