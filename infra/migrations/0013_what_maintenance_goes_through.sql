-- databases: app
-- Maintenance compares documents with the bucket, which lists its objects in the order of their keys' bytes, looks for
-- documents that nothing happens to any more, and forgets jobs that ended long ago.
create index documents_object_key_bytes on agentkit.documents (object_key collate "C");
create index documents_unfinished on agentkit.documents (updated_at)
  where status in ('awaiting_upload', 'queued', 'processing');
create index jobs_finished_at on agentkit.jobs (finished_at) where finished_at is not null;
