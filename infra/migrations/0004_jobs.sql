-- databases: app
create table agentkit.jobs (
  id uuid primary key,
  owner uuid not null,
  kind text not null,
  status text not null default 'queued' check (status in ('queued', 'running', 'succeeded', 'failed')),
  document_id uuid,
  progress jsonb not null default '{}' check (jsonb_typeof(progress) = 'object'),
  attempts integer not null default 0 check (attempts >= 0),
  error_code text,
  error text,
  idempotency_key text check (char_length(idempotency_key) between 1 and 128),
  created_at timestamptz not null default now(),
  started_at timestamptz,
  finished_at timestamptz,
  unique (owner, idempotency_key)
);
comment on table agentkit.jobs is 'Long work that someone asked for and the worker does.';

create index jobs_document on agentkit.jobs (document_id);
-- A document has one live ingestion: asking twice finds the first.
create unique index jobs_live_document on agentkit.jobs (document_id, kind) where status in ('queued', 'running');

grant select, insert, update on agentkit.jobs to authenticated;
grant select, insert, update, delete on agentkit.jobs to agentkit_service;

alter table agentkit.jobs enable row level security;
create policy "people have their own" on agentkit.jobs to authenticated
  using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
create policy "the service works on all" on agentkit.jobs to agentkit_service using (true) with check (true);
