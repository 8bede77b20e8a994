-- databases: vectors
-- The words of a document's title and of the headings above a passage are words to find it by, too: "How high is the
-- deposit for 4 Mill Lane?" is answered by a passage that names no street. Titles are often filenames. Rewrites the
-- table; indexed again, and kept inline, as before.
alter table vecs.passages drop column fts;
alter table vecs.passages add column fts tsvector not null generated always as (
  to_tsvector(
    'english',
    coalesce(metadata ->> 'text', '') || ' ' || translate(coalesce(metadata ->> 'title', ''), '-_.', '   ')
      || ' ' || coalesce(metadata ->> 'heading', '')
  )
) stored;
alter table vecs.passages alter column fts set storage main;
create index passages_fts on vecs.passages using gin (fts);
