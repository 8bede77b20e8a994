-- databases: vectors
-- A passage with its text is longer than Postgres likes a row to be, and it would move the vector out first, to be
-- fetched piece by piece for each comparison. Move the text out instead; the vector stays while it fits a page (up to
-- some 2,000 dimensions).
alter table vecs.passages alter column vec set storage main;
