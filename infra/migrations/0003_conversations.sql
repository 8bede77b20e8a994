-- databases: app
-- A chat's id is chosen by the browser, so it is unique for its owner only: another person's equal id is another chat.
create table agentkit.conversations (
  owner uuid not null,
  id text not null check (id ~ '^[A-Za-z0-9_-]{1,64}$'),
  title text not null check (char_length(title) between 1 and 200),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  primary key (owner, id)
);
comment on table agentkit.conversations is 'A chat; its id is the one that useChat sends.';

create table agentkit.messages (
  owner uuid not null,
  conversation_id text not null,
  id text not null check (char_length(id) between 1 and 128),
  ordinal bigint generated always as identity,
  role text not null check (role in ('user', 'assistant')),
  parts jsonb not null check (jsonb_typeof(parts) = 'array'),
  metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),
  created_at timestamptz not null default now(),
  primary key (owner, conversation_id, id),
  foreign key (owner, conversation_id) references agentkit.conversations (owner, id) on delete cascade
);
comment on table agentkit.messages is 'One message of a chat, its parts and metadata as in an AI SDK UI message.';
comment on column agentkit.messages.ordinal is 'Order within the conversation; gaps mean nothing.';

create index conversations_owner_updated_at_id on agentkit.conversations (owner, updated_at desc, id desc);
create index messages_conversation_ordinal on agentkit.messages (owner, conversation_id, ordinal);

grant select, insert, update, delete on agentkit.conversations, agentkit.messages to authenticated, agentkit_service;

alter table agentkit.conversations enable row level security;
create policy "people have their own" on agentkit.conversations to authenticated
  using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
create policy "the service works on all" on agentkit.conversations to agentkit_service using (true) with check (true);

alter table agentkit.messages enable row level security;
create policy "people have their own" on agentkit.messages to authenticated
  using (owner = (select auth.uid())) with check (owner = (select auth.uid()));
create policy "the service works on all" on agentkit.messages to agentkit_service using (true) with check (true);
