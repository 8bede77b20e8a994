-- databases: app
create table agentkit.documents (
  id uuid primary key,
  owner uuid not null,
  title text not null check (char_length(title) between 1 and 300),
  filename text not null check (char_length(filename) between 1 and 255),
  media_type text not null,
  size_bytes bigint not null check (size_bytes > 0),
  audience text not null default 'owner' check (audience in ('owner', 'everyone')),
  status text not null check (status in ('awaiting_upload', 'queued', 'processing', 'ready', 'failed')),
  object_key text not null unique,
  content_hash text,
  pages integer check (pages >= 0),
  passages integer check (passages >= 0),
  error_code text,
  error text,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table agentkit.documents is 'A file that someone gave us; its passages are in vecs.passages, by document_id.';
comment on column agentkit.documents.audience is 'everyone: readable by all signed-in users; only admins set it.';

create index documents_owner_created_at_id on agentkit.documents (owner, created_at desc, id desc);
create index documents_everyone on agentkit.documents (created_at desc, id desc) where audience = 'everyone';

grant select, insert, update, delete on agentkit.documents to authenticated, agentkit_service;

alter table agentkit.documents enable row level security;
create policy "people read their own and what is for everyone" on agentkit.documents for select to authenticated
  using (owner = (select auth.uid()) or audience = 'everyone');
create policy "people add their own" on agentkit.documents for insert to authenticated
  with check (owner = (select auth.uid()) and (audience = 'owner' or (select agentkit.is_admin())));
create policy "people change their own" on agentkit.documents for update to authenticated
  using (owner = (select auth.uid()))
  with check (owner = (select auth.uid()) and (audience = 'owner' or (select agentkit.is_admin())));
create policy "people delete their own" on agentkit.documents for delete to authenticated
  using (owner = (select auth.uid()));
create policy "the service works on all" on agentkit.documents to agentkit_service using (true) with check (true);

create function agentkit.touch() returns trigger language plpgsql as $$
begin
  new.updated_at := now();
  return new;
end
$$;
create trigger touch before update on agentkit.documents for each row execute function agentkit.touch();
