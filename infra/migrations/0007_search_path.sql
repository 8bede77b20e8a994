-- databases: app, vectors
-- Supabase keeps extensions in a schema of that name, and pgvector may be there or in `public`. Its own roles look in
-- both; ours have to be told. A schema that does not exist is passed over.
alter role agentkit_functions set search_path = "$user", public, extensions;
alter role agentkit_worker set search_path = "$user", public, extensions;

do $$
begin
  if exists (select from pg_namespace where nspname = 'extensions') then
    grant usage on schema extensions to agentkit_service, agentkit_worker;
  end if;
end
$$;
