-- databases: app, vectors
-- Who connects. `authenticated` and `anon` are Supabase's own; a person's request runs as `authenticated`.
do $$
begin
  if not exists (select from pg_roles where rolname = 'agentkit_service') then
    -- What elevated work runs as; row-level security applies to it, through policies that name it.
    create role agentkit_service nologin noinherit nobypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'agentkit_functions') then
    create role agentkit_functions login noinherit nobypassrls;
  end if;
  if not exists (select from pg_roles where rolname = 'agentkit_worker') then
    create role agentkit_worker login noinherit nobypassrls;
  end if;
end
$$;

grant authenticated to agentkit_functions;
grant authenticated, agentkit_service to agentkit_worker;

-- Not `public`: Supabase serves that schema to browsers, and these rows are written by the functions alone.
create schema if not exists agentkit;
comment on schema agentkit is 'AgentKit Functions: written by its functions, never served to browsers directly.';
revoke all on schema agentkit from public;
grant usage on schema agentkit to authenticated, agentkit_service;

-- The verified claims of the person whose request this is; null outside of one.
create or replace function agentkit.is_admin() returns boolean
language sql stable
return coalesce((select auth.jwt()) -> 'app_metadata' ->> 'role' = 'admin', false);
