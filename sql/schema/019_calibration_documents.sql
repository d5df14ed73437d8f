-- Which documents the statistics and pruning scores were made on, so that pruning is never judged on the same texts.

CREATE TABLE calibration_documents (
    role VARCHAR,
    sha256 VARCHAR
);
COMMENT ON TABLE calibration_documents IS 'documents that pruning scores and activation statistics were measured on, every text once per role; sorted by role, sha256';
COMMENT ON COLUMN calibration_documents.role IS 'gradients: in the forward and backward pass behind fisher and the means that mean-ablation puts in place of an activation; activations: in the pass over the whole corpus, which stands in for both in an atlas without gradients';
COMMENT ON COLUMN calibration_documents.sha256 IS 'SHA-256 of the document''s UTF-8 text, 64 hex digits';
