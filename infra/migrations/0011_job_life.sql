-- databases: app
-- A job says which step it is at, who is at it and until when, and what it has cost. Long documents are embedded in
-- parts, by several workers at once.
alter table agentkit.jobs drop constraint jobs_status_check;
update agentkit.jobs set status = 'ready' where status = 'succeeded';
update agentkit.jobs set status = 'queued' where status = 'running';
alter table agentkit.jobs
  add constraint jobs_status_check
    check (status in ('queued', 'parsing', 'embedding', 'indexing', 'ready', 'failed', 'cancelled')),
  add column number bigint generated always as identity,
  add column holder uuid,
  add column lease_until timestamptz,
  add column deadline timestamptz not null default now() + interval '6 hours',
  add column source jsonb not null default '{}' check (jsonb_typeof(source) = 'object'),
  add column input_tokens bigint not null default 0 check (input_tokens >= 0),
  add column cost_usd numeric(12, 6) not null default 0 check (cost_usd >= 0),
  add column updated_at timestamptz not null default now();
comment on column agentkit.jobs.number is 'Order among jobs: passages of a later one are never replaced by an earlier one.';
comment on column agentkit.jobs.holder is 'The claim that works on the job alone, until lease_until; null between steps.';
comment on column agentkit.jobs.deadline is 'After this the job is failed, whoever is at it.';
comment on column agentkit.jobs.source is 'The file as the parts were made of it: etag, content_hash, pages and the like.';

create unique index jobs_live_of_document on agentkit.jobs (owner, document_id, kind)
  where status in ('queued', 'parsing', 'embedding', 'indexing');
drop index agentkit.jobs_live_owner_document;
create index jobs_owner_created_at_id on agentkit.jobs (owner, created_at desc, id desc);
-- What maintenance goes through: live jobs, the longest untouched first.
create index jobs_live on agentkit.jobs (updated_at) where status in ('queued', 'parsing', 'embedding', 'indexing');

create trigger touch before update on agentkit.jobs for each row execute function agentkit.touch();

create table agentkit.job_parts (
  job_id uuid not null references agentkit.jobs (id) on delete cascade,
  ordinal integer not null check (ordinal >= 0),
  first_page integer,
  last_page integer,
  passages jsonb not null check (jsonb_typeof(passages) = 'array'),
  count integer not null check (count > 0),
  staged integer not null default 0 check (staged between 0 and count),
  reused integer not null default 0 check (reused between 0 and count),
  attempts integer not null default 0 check (attempts >= 0),
  holder uuid,
  lease_until timestamptz,
  done_at timestamptz,
  primary key (job_id, ordinal)
);
comment on table agentkit.job_parts is 'A stretch of a document that is being ingested: its passages wait for vectors.';
comment on column agentkit.job_parts.staged is 'Passages of it that have their vectors, in the vectors database.';

grant select, insert, update, delete on agentkit.job_parts to agentkit_service;
alter table agentkit.job_parts enable row level security;
create policy "the service works on all" on agentkit.job_parts to agentkit_service using (true) with check (true);

alter table agentkit.documents drop constraint documents_status_check;
alter table agentkit.documents drop constraint documents_size_bytes_check;
alter table agentkit.documents
  add constraint documents_status_check
    check (status in ('awaiting_upload', 'queued', 'processing', 'ready', 'failed', 'cancelled')),
  -- Of a web page it is known once it has been fetched.
  add constraint documents_size_bytes_check check (size_bytes > 0 or source_url is not null),
  add column source_url text check (char_length(source_url) <= 2048),
  add column etag text,
  add column recipe text;
comment on column agentkit.documents.source_url is 'The web address that it was fetched from.';
comment on column agentkit.documents.etag is 'Of the file as it was last read.';
comment on column agentkit.documents.recipe is 'How its passages were made: another one makes others of the same bytes.';
