-- Rows of impacts that new ones (new_impacts) take the place of: of the same set and evaluation.
DELETE FROM impacts AS i USING new_impacts AS n WHERE i.set_id = n.set_id AND i.eval_id = n.eval_id;
