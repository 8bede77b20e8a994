-- databases: vectors
-- A table that vecs opens unchanged (id, vec, metadata), with columns of our own that Postgres derives from metadata.
create extension if not exists vector;
create schema if not exists vecs;

create table vecs.passages (
  id varchar primary key,
  vec vector({{embedding_dimensions}}) not null,
  metadata jsonb not null default '{}',
  owner uuid not null generated always as ((metadata ->> 'owner')::uuid) stored,
  document_id uuid not null generated always as ((metadata ->> 'document_id')::uuid) stored,
  audience text not null generated always as (coalesce(metadata ->> 'audience', 'owner')) stored
    check (audience in ('owner', 'everyone')),
  fts tsvector not null generated always as (to_tsvector('english', coalesce(metadata ->> 'text', ''))) stored
);
comment on table vecs.passages is 'Pieces of documents with their vectors; written through vecs, read by SQL.';

create index passages_owner on vecs.passages (owner);
create index passages_document_id on vecs.passages (document_id);
create index passages_everyone on vecs.passages (audience) where audience = 'everyone';
create index passages_fts on vecs.passages using gin (fts);
-- Named as vecs names its own, so that vecs finds it and does not warn of a missing index.
create index ix_vector_cosine_ops_hnsw_m16_efc64_agentkit on vecs.passages
  using hnsw (vec vector_cosine_ops) with (m = 16, ef_construction = 64);

grant usage on schema vecs to authenticated, agentkit_service, agentkit_worker;
grant select, delete on vecs.passages to authenticated;
grant select, insert, update, delete on vecs.passages to agentkit_service, agentkit_worker;
-- vecs' client says `create schema if not exists` and `create extension if not exists` when it connects.
do $$
begin
  execute format('grant create on database %I to agentkit_worker', current_database());
end
$$;

alter table vecs.passages enable row level security;
create policy "people read their own and what is for everyone" on vecs.passages for select to authenticated
  using (owner = (select auth.uid()) or audience = 'everyone');
create policy "people delete their own" on vecs.passages for delete to authenticated
  using (owner = (select auth.uid()));
create policy "the service works on all" on vecs.passages to agentkit_service, agentkit_worker
  using (true) with check (true);
