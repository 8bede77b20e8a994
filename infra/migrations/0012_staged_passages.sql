-- databases: vectors
-- A document that is ingested again gathers its passages beside those that serve, until all of them have their vectors;
-- then they take their places at once. A collection of vecs' own: id (`job/passage`), vec, metadata with the job's id.
create table vecs.staged (
  id varchar primary key,
  vec vector({{embedding_dimensions}}) not null,
  metadata jsonb not null default '{}',
  job_id uuid not null generated always as ((metadata ->> 'job_id')::uuid) stored,
  owner uuid not null generated always as ((metadata ->> 'owner')::uuid) stored
);
comment on table vecs.staged is 'Passages of documents that are being ingested; nobody finds them before they are all there.';

-- Whose vector is known? The same text of the same owner has the same one, live or staged by a job that broke off.
create index staged_owner_content_hash on vecs.staged (owner, (metadata ->> 'content_hash'));
create index passages_owner_content_hash on vecs.passages (owner, (metadata ->> 'content_hash'));
create index staged_job_id on vecs.staged (job_id);

grant select, insert, update, delete on vecs.staged to agentkit_service, agentkit_worker;

alter table vecs.staged enable row level security;
create policy "the service works on all" on vecs.staged to agentkit_service, agentkit_worker
  using (true) with check (true);
