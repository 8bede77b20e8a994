-- databases: app
create table agentkit.usage_events (
  id bigint generated always as identity primary key,
  owner uuid not null,
  function text not null,
  model text not null,
  input_tokens integer not null check (input_tokens >= 0),
  output_tokens integer not null check (output_tokens >= 0),
  cost_usd numeric(12, 6) not null check (cost_usd >= 0),
  conversation_id text,
  document_id uuid,
  created_at timestamptz not null default now()
);
comment on table agentkit.usage_events is 'What a model call cost whom; never changed after it is written.';

create index usage_events_owner_created_at on agentkit.usage_events (owner, created_at);

grant select, insert on agentkit.usage_events to authenticated, agentkit_service;

alter table agentkit.usage_events enable row level security;
create policy "people read their own" on agentkit.usage_events for select to authenticated
  using (owner = (select auth.uid()));
create policy "people's requests record their own" on agentkit.usage_events for insert to authenticated
  with check (owner = (select auth.uid()));
create policy "the service works on all" on agentkit.usage_events to agentkit_service using (true) with check (true);
