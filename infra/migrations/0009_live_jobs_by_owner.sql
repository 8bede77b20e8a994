-- databases: app
-- Whoever knows the id of another's document must not be able to stand in the way of its ingestion.
create unique index jobs_live_owner_document on agentkit.jobs (owner, document_id, kind)
  where status in ('queued', 'running');
drop index agentkit.jobs_live_document;
