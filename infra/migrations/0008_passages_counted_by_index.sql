-- databases: vectors
-- A search first counts what its caller may see. With both columns that row-level security asks for in the index, it
-- counts there and reads no rows.
create index passages_owner_audience on vecs.passages (owner) include (audience);
create index passages_everyone_owner on vecs.passages (audience) include (owner) where audience = 'everyone';
drop index vecs.passages_owner;
drop index vecs.passages_everyone;
